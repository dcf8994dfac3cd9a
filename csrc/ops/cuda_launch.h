// What stands between tensors and the CUDA kernels: device, stream, errors, scratch memory.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/shim_utils.h>

#include <cstddef>
#include <cstdint>

#include "ops/checks.h"
#include "ops/tensor_rows.h"

namespace vqgan_fast::ops {

inline void check_cuda(cudaError_t error, const char* what) {
  VQGAN_FAST_CHECK(
      error != cudaErrorNoKernelImageForDevice, what,
      ": this build of vqgan_fast has no code for the GPU (sm_75 or newer is needed, and "
      "VQGAN_FAST_CUDA_ARCHS must name it or an older one with PTX; `vqgan-fast info` "
      "lists both)");
  VQGAN_FAST_CHECK(error == cudaSuccess, what, ": CUDA error ", static_cast<int>(error), ", ",
                   cudaGetErrorString(error));
}

// The device of a tensor for as long as the object lives, and the stream that torch uses there now.
class CudaContext {
 public:
  explicit CudaContext(const Tensor& t) : guard_(t.get_device_index()) {
    // The guard speaks to torch's CUDA runtime; this library has one of its own, linked statically.
    check_cuda(cudaSetDevice(t.get_device_index()), "cudaSetDevice");
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

// Scratch memory from torch's allocator; it may go as soon as the kernels are in the stream.
inline Tensor scratch(const Tensor& like, size_t bytes) {
  const int64_t doubles = static_cast<int64_t>((bytes + sizeof(double) - 1) / sizeof(double));
  return torch::stable::new_empty(like, {doubles}, ScalarType::Double);
}

}  // namespace vqgan_fast::ops
