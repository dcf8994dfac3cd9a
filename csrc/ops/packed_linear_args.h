// The arguments of packed_linear, as kernels of any device take them.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>

#include "kernels/cpu/packed_linear.h"
#include "ops/decode_checks.h"

namespace vqgan_fast::ops {

// Checks the tensors and holds what had to be made contiguous. `args` lacks y alone.
struct PackedLinearTensors {
  PackedLinearTensors(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& scales,
                      const std::optional<Tensor>& bias, int64_t outputs, bool gelu) {
    check_packed_linear(x, weight, scales, bias, outputs);
    rows_ = torch::stable::contiguous(x);
    args.x = floats_of(rows_);
    args.rows = x.size(0);
    args.dim = x.size(1);
    args.weight = weight.data_ptr();
    args.type = weight_type(weight);
    if (scales.has_value()) {
      scales_ = torch::stable::contiguous(*scales);
      args.scales = floats_of(scales_);
    }
    if (bias.has_value()) {
      bias_ = torch::stable::contiguous(*bias);
      args.bias = floats_of(bias_);
    }
    args.outputs = outputs;
    args.gelu = gelu;
  }

  PackedLinearArgs args;

 private:
  Tensor rows_, scales_, bias_;
};

}  // namespace vqgan_fast::ops
