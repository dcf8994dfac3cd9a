#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "kernels/cpu/layer_norm.h"
#include "ops/decode_checks.h"
#include "ops/parallel_cpu.h"
#include "ops/tensor_rows.h"

namespace vqgan_fast::ops {
namespace {

Tensor layer_norm_cpu(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  check_layer_norm(x, weight, bias, eps);
  const Tensor rows = torch::stable::contiguous(x), w = torch::stable::contiguous(weight),
               b = torch::stable::contiguous(bias);
  Tensor y = empty_on_cpu({x.size(0), x.size(1)}, ScalarType::Float);
  layer_norm({floats_of(rows), x.size(0), x.size(1), floats_of(w), floats_of(b),
              static_cast<float>(eps), floats_of(y)},
             simd_level(), torch_parallel());
  return y;
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CPU, m) {
  m.impl("layer_norm", TORCH_BOX(&vqgan_fast::ops::layer_norm_cpu));
}
