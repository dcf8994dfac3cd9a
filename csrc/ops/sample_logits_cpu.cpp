#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>

#include "kernels/cpu/sample_logits.h"
#include "ops/decode_checks.h"
#include "ops/parallel_cpu.h"
#include "ops/tensor_rows.h"

namespace vqgan_fast::ops {
namespace {

// Rows of (B, V) that may be apart, but not their elements.
Tensor with_dense_rows(const Tensor& t) {
  return t.size(1) <= 1 || t.stride(1) == 1 ? t : torch::stable::contiguous(t);
}

std::tuple<Tensor, Tensor> sample_logits_cpu(const Tensor& logits, const Tensor& seeds,
                                             const Tensor& cells,
                                             std::optional<Tensor> uncond_logits, double guidance,
                                             double temperature, int64_t top_k, double top_p,
                                             double log_min_p) {
  check_logits(logits, seeds, cells, uncond_logits, top_k);
  const Tensor rows = with_dense_rows(logits), keys = torch::stable::contiguous(seeds),
               places = torch::stable::contiguous(cells);
  if (uncond_logits.has_value()) uncond_logits = with_dense_rows(*uncond_logits);
  Tensor codes = empty_on_cpu({logits.size(0)}, ScalarType::Long);
  Tensor logprobs = empty_on_cpu({logits.size(0)}, ScalarType::Float);
  SampleLogitsArgs args;
  args.logits = floats_of(rows);
  args.logits_stride = rows.stride(0);
  if (uncond_logits.has_value()) {
    args.uncond_logits = floats_of(*uncond_logits);
    args.uncond_stride = uncond_logits->stride(0);
  }
  args.rows = logits.size(0);
  args.num_codes = logits.size(1);
  args.seeds = integers_of(keys);
  args.cells = integers_of(places);
  args.rule = {guidance, temperature, top_k, top_p, log_min_p};
  args.codes = static_cast<int64_t*>(codes.data_ptr());
  args.logprobs = floats_of(logprobs);
  sample_logits(args, simd_level(), torch_parallel());
  for (int64_t row = 0; row < args.rows; ++row) {
    STD_TORCH_CHECK(args.codes[row] >= 0,
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
