// What follows the sums of a panel; each SIMD level includes it and is compiled with its own flags.
#pragma once

#include "kernels/cpu/packed_linear.h"
#include "kernels/decode_math.h"

namespace vqgan_fast {
namespace {

// Stores `count` outputs of a row, from `first` on.
inline __attribute__((always_inline)) void finish_outputs(const PackedLinearArgs& args, int64_t row,
                                                          int64_t first, int count,
                                                          const float* totals) {
  alignas(64) float values[kPanel];
  for (int j = 0; j < kPanel; ++j) values[j] = totals[j];
  if (args.scales != nullptr) {
    for (int j = 0; j < count; ++j) values[j] *= args.scales[first + j];
  }
  if (args.bias != nullptr) {
    for (int j = 0; j < count; ++j) values[j] += args.bias[first + j];
  }
  if (args.gelu) {
    for (int j = 0; j < kPanel; ++j) values[j] = gelu(values[j]);
  }
  const int64_t offset = row * args.outputs + first;
  if (args.residual != nullptr) {
    for (int j = 0; j < count; ++j) values[j] += args.residual[offset + j];
  }
  for (int j = 0; j < count; ++j) args.y[offset + j] = values[j];
}

// Stores the outputs [first, first + kPanel) of a row, as far as there are so many.
void finish_panel(const PackedLinearArgs& args, int64_t row, int64_t first, const float* totals) {
  const int64_t left = args.outputs - first;
  if (left >= kPanel) {
    finish_outputs(args, row, first, kPanel, totals);  // a constant: the loops are vectors
  } else {
    finish_outputs(args, row, first, static_cast<int>(left), totals);
  }
}

}  // namespace
}  // namespace vqgan_fast
