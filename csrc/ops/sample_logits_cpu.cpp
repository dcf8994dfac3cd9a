#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>

#include "kernels/cpu/sample_logits.h"
#include "ops/cells.h"
#include "ops/parallel_cpu.h"
#include "ops/sample_logits_args.h"
#include "ops/tensor_rows.h"

namespace vqgan_fast::ops {
namespace {

std::tuple<Tensor, Tensor> sample_logits_cpu(const Tensor& logits, const Tensor& seeds,
                                             const Tensor& cells,
                                             std::optional<Tensor> uncond_logits, double guidance,
                                             double temperature, int64_t top_k, double top_p,
                                             double log_min_p) {
  LogitTensors tensors(logits, seeds, cells, uncond_logits,
                       {guidance, temperature, top_k, top_p, log_min_p});
  SampleLogitsArgs& args = tensors.args;
  check_range(args.cells, "cells", args.rows, 0, int64_t{1} << 32);
  Tensor codes = empty_on_cpu({args.rows}, ScalarType::Long);
  Tensor logprobs = empty_on_cpu({args.rows}, ScalarType::Float);
  args.codes = static_cast<int64_t*>(codes.data_ptr());
  args.logprobs = floats_of(logprobs);
  sample_logits(args, simd_level(), torch_parallel());
  for (int64_t row = 0; row < args.rows; ++row) {
    VQGAN_FAST_CHECK(args.codes[row] >= 0,
                     "logits must hold no NaN or +inf, and a finite value in each row: row ", row,
                     " does not");
  }
  return {codes, logprobs};
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CPU, m) {
  m.impl("sample_logits", TORCH_BOX(&vqgan_fast::ops::sample_logits_cpu));
}
