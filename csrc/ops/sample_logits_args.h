// The arguments of sample_logits, as kernels of any device take them.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>

#include "kernels/cpu/sample_logits.h"
#include "ops/decode_checks.h"

namespace vqgan_fast::ops {

// Checks the tensors and holds what had to be made contiguous. `args` lacks codes and logprobs.
struct LogitTensors {
  LogitTensors(const Tensor& logits, const Tensor& seeds, const Tensor& cells,
               const std::optional<Tensor>& uncond_logits, const DrawRule& rule) {
    check_logits(logits, seeds, cells, uncond_logits, rule.top_k);
    logits_ = with_dense_rows(logits);
    seeds_ = torch::stable::contiguous(seeds);
    cells_ = torch::stable::contiguous(cells);
    args.logits = floats_of(logits_);
    args.logits_stride = logits_.stride(0);
    if (uncond_logits.has_value()) {
      uncond_logits_ = with_dense_rows(*uncond_logits);
      args.uncond_logits = floats_of(uncond_logits_);
      args.uncond_stride = uncond_logits_.stride(0);
    }
    args.rows = logits.size(0);
    args.num_codes = logits.size(1);
    args.seeds = integers_of(seeds_);
    args.cells = integers_of(cells_);
    args.rule = rule;
  }

  SampleLogitsArgs args;

 private:
  // Rows of (B, V) that may be apart, but not their elements.
  static Tensor with_dense_rows(const Tensor& t) {
    return t.size(1) <= 1 || t.stride(1) == 1 ? t : torch::stable::contiguous(t);
  }

  Tensor logits_, uncond_logits_, seeds_, cells_;
};

}  // namespace vqgan_fast::ops
