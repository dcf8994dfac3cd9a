#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>

#include "kernels/cpu/packed_linear.h"
#include "ops/packed_linear_args.h"
#include "ops/parallel_cpu.h"
#include "ops/tensor_rows.h"

namespace vqgan_fast::ops {
namespace {

Tensor packed_linear_cpu(const Tensor& x, const Tensor& weight, std::optional<Tensor> scales,
                         std::optional<Tensor> bias, int64_t outputs, bool gelu) {
  PackedLinearTensors linear(x, weight, scales, bias, outputs, gelu);
  Tensor y = empty_on_cpu({x.size(0), outputs}, ScalarType::Float);
  linear.args.y = floats_of(y);
  packed_linear(linear.args, simd_level(), torch_parallel());
  return y;
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CPU, m) {
  m.impl("packed_linear", TORCH_BOX(&vqgan_fast::ops::packed_linear_cpu));
}
