#include <torch/csrc/stable/library.h>

#include <optional>

#include "kernels/cuda/decode.cuh"
#include "ops/cuda_launch.h"
#include "ops/packed_linear_args.h"

namespace vqgan_fast::ops {
namespace {

Tensor packed_linear_cuda(const Tensor& x, const Tensor& weight, std::optional<Tensor> scales,
                          std::optional<Tensor> bias, int64_t outputs, bool gelu) {
  PackedLinearTensors linear(x, weight, scales, bias, outputs, gelu);
  Tensor y = torch::stable::new_empty(x, {x.size(0), outputs});
  if (x.size(0) == 0) return y;
  const CudaContext context(x);
  linear.args.y = floats_of(y);
  check_cuda(cuda::packed_linear(linear.args, context.stream()), "packed_linear");
  return y;
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CUDA, m) {
  m.impl("packed_linear", TORCH_BOX(&vqgan_fast::ops::packed_linear_cuda));
}
