// LayerNorm of single rows, every sum in one order: docs/decode_numerics.md, "Sums of a row".
#pragma once

#include <cstdint>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

struct LayerNormArgs {
  const float* x = nullptr;  // (rows, dim)
  int64_t rows = 0;
  int64_t dim = 0;
  const float* weight = nullptr;  // (dim,)
  const float* bias = nullptr;    // (dim,)
  float eps = 0.0f;
  float* y = nullptr;  // (rows, dim)
};

void layer_norm_baseline(const LayerNormArgs& args, int64_t row_begin, int64_t row_end);
#ifdef VQGAN_FAST_HAS_LAYER_NORM_AVX2
void layer_norm_avx2(const LayerNormArgs& args, int64_t row_begin, int64_t row_end);
#endif

void layer_norm(const LayerNormArgs& args, SimdLevel level, const Parallel& parallel);

}  // namespace vqgan_fast
