#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>

#include "kernels/cpu/packed_linear.h"
#include "ops/decode_checks.h"
#include "ops/parallel_cpu.h"
#include "ops/tensor_rows.h"

namespace vqgan_fast::ops {
namespace {

Tensor packed_linear_cpu(const Tensor& x, const Tensor& weight, std::optional<Tensor> scales,
                         std::optional<Tensor> bias, int64_t outputs, bool gelu) {
  check_packed_linear(x, weight, scales, bias, outputs);
  const Tensor rows = torch::stable::contiguous(x);
  if (scales.has_value()) scales = torch::stable::contiguous(*scales);
  if (bias.has_value()) bias = torch::stable::contiguous(*bias);
  Tensor y = empty_on_cpu({x.size(0), outputs}, ScalarType::Float);
  PackedLinearArgs args;
  args.x = floats_of(rows);
  args.rows = x.size(0);
  args.dim = x.size(1);
  args.weight = weight.data_ptr();
  args.type = weight_type(weight);
  args.scales = scales.has_value() ? floats_of(*scales) : nullptr;
  args.bias = bias.has_value() ? floats_of(*bias) : nullptr;
  args.outputs = outputs;
  args.gelu = gelu;
  args.y = floats_of(y);
  packed_linear(args, simd_level(), torch_parallel());
  return y;
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CPU, m) {
  m.impl("packed_linear", TORCH_BOX(&vqgan_fast::ops::packed_linear_cpu));
}
