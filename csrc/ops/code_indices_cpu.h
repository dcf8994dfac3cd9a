// The codes of rows, as the CPU kernels read them.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

#include "kernels/cpu/code_groups.h"
#include "ops/checks.h"

namespace vqgan_fast::ops {

// The indices, contiguous, each in [0, num_codes): kernels address by them.
inline Tensor contiguous_indices(const Tensor& indices, int64_t num_codes) {
  const Tensor flat = torch::stable::contiguous(indices);
  const auto* index = static_cast<const int64_t*>(flat.data_ptr());
  const int64_t bad = find_bad_index(index, flat.numel(), num_codes);
  VQGAN_FAST_CHECK(bad < 0, "indices must lie in [0, ", num_codes, "), got ", index[bad],
                   " at flat position ", bad);
  return flat;
}

}  // namespace vqgan_fast::ops
