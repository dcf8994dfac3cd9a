// LayerNorm as loops for a compiler to vectorise: each SIMD level includes this and is compiled
// with its own flags.
#pragma once

#include "kernels/cpu/chain_sums.h"
#include "kernels/cpu/layer_norm.h"
#include "kernels/decode_math.h"

namespace vqgan_fast {
namespace {

void norm_rows(const LayerNormArgs& args, int64_t row_begin, int64_t row_end) {
  const float count = static_cast<float>(args.dim);
  for (int64_t row = row_begin; row < row_end; ++row) {
    const float* x = args.x + row * args.dim;
    float* y = args.y + row * args.dim;
    const float sum = chain_sum(args.dim, [x](int64_t i, float chain) { return chain + x[i]; });
    const float mean = sum / count;
    const float squares = chain_sum(args.dim, [x, mean](int64_t i, float chain) {
      const float difference = x[i] - mean;
      return fused(difference, difference, chain);
    });
    const float scale = 1.0f / __builtin_sqrtf(squares / count + args.eps);
    for (int64_t i = 0; i < args.dim; ++i) {
      y[i] = fused((x[i] - mean) * scale, args.weight[i], args.bias[i]);
    }
  }
}

}  // namespace
}  // namespace vqgan_fast
