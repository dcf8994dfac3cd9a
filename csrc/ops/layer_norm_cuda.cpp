#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "kernels/cuda/decode.cuh"
#include "ops/cuda_launch.h"
#include "ops/decode_checks.h"

namespace vqgan_fast::ops {
namespace {

Tensor layer_norm_cuda(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  check_layer_norm(x, weight, bias, eps);
  const Tensor rows = torch::stable::contiguous(x), w = torch::stable::contiguous(weight),
               b = torch::stable::contiguous(bias);
  Tensor y = torch::stable::new_empty(x, {x.size(0), x.size(1)});
  if (x.size(0) == 0) return y;
  const CudaContext context(x);
  check_cuda(cuda::layer_norm({floats_of(rows), x.size(0), x.size(1), floats_of(w), floats_of(b),
                               static_cast<float>(eps), floats_of(y)},
                              context.stream()),
             "layer_norm");
  return y;
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CUDA, m) {
  m.impl("layer_norm", TORCH_BOX(&vqgan_fast::ops::layer_norm_cuda));
}
