// What a thread of the tensor-core searches keeps while tiles of codes pass: for each row and class
// the smallest score and the tile it came from; for each row the smallest score that any class gave
// up. A code within a limit is in the tile its class names, unless that last score is within it
// too.
#pragma once

#include <cstdint>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/nearest_code_layout.h"
#include "kernels/cuda/nearest_code_stages.cuh"

namespace vqgan_fast {
namespace cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

// Of one row, in one thread. kGroups: runs of the columns that this thread sees of a tile.
template <int kGroups>
struct ClassRecord {
  float best[kGroups];
  int tile[kGroups];
  float loser;

  __device__ void clear() {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      best[g] = float_of_bits(0x7f800000u);
      tile[g] = 0;
    }
    loser = float_of_bits(0x7f800000u);
  }

  __device__ void take(int g, float smallest, int tile_index) {
    loser = fminf(loser, fmaxf(best[g], smallest));
    tile[g] = smallest < best[g] ? tile_index : tile[g];
    best[g] = fminf(best[g], smallest);
  }
};

// The smaller of `smallest` and the scores of two neighbouring columns.
__device__ inline float smaller_score(float smallest, const float2& half_norms, float scale,
                                      const float* products) {
  smallest = fminf(smallest, fmaf(half_norms.x, scale, -products[0]));
  return fminf(smallest, fmaf(half_norms.y, scale, -products[1]));
}

// Takes up the scores of one row in one tile: scale half_norm - product, for kColumns / 8 groups of
// 8 columns. `products`: the thread's accumulators; half_norms(j): of its two columns in group j.
template <int kGroups, int kColumns, class HalfNorms>
__device__ inline void fold_tile(ClassRecord<kGroups>* record, const float* products, int half,
                                 const HalfNorms& half_norms, float scale, int tile) {
  constexpr int kPerGroup = kColumns / 8 / kGroups;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    float smallest = float_of_bits(0x7f800000u);
#pragma unroll
    for (int i = 0; i < kPerGroup; ++i) {
      const int j = g * kPerGroup + i;
      smallest =
          smaller_score(smallest, half_norms(j), scale, products + fragment_value(j, half, 0));
    }
    record->take(g, smallest, tile);
  }
}

// 2^r of a row; 1 where its scores do not count.
__device__ inline float row_scale(const SearchArgs& args, int64_t row) {
  const float scale = row < args.num_rows ? args.row_facts[row].scale : 1.0f;
  return scale > 0.0f ? scale : 1.0f;
}

// The smallest over the four lanes of a quad, in all of them.
__device__ inline float quad_min(float value) {
  value = fminf(value, __shfl_xor_sync(kAllLanes, value, 1));
  return fminf(value, __shfl_xor_sync(kAllLanes, value, 2));
}

}  // namespace cuda
}  // namespace vqgan_fast
