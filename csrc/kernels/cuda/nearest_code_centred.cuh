// Elements of codes and rows as their images are made of: less the centre.
#pragma once

#include <cstdint>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/nearest_code_stages.cuh"

namespace vqgan_fast {
namespace cuda {

constexpr int kPackThreads = 256;
constexpr int kWarp = 32;

inline __device__ bool finite(float x) { return x - x == 0.0f; }

// The largest of the values of a warp's lanes, in lane 0.
inline __device__ unsigned warp_max(unsigned value) {
  constexpr unsigned kAllLanes = 0xffffffffu;
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const unsigned other = __shfl_down_sync(kAllLanes, value, step, kWarp);
    value = other > value ? other : value;
  }
  return value;
}

// Columns 8 unit .. 8 unit + 7 of a row, less the centre; 0 behind the last column. A value that is
// not finite becomes 0 and is told: 1 for an element, 2 for a difference.
inline __device__ int load_centred(const Rows& rows, int64_t offset, bool aligned, int unit,
                                   int64_t dim, const float* centre, float (&t)[8]) {
  const int64_t first = static_cast<int64_t>(unit) * kUnitColumns;
  int told = 0;
  if (first + kUnitColumns <= dim) {
    load_eight_floats(rows, offset + first * rows.element_stride, aligned, t);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      t[i] = first + i < dim
                 ? load_float(rows.data, rows.dtype, offset + (first + i) * rows.element_stride)
                 : 0.0f;
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (!finite(t[i])) told |= 1;
    t[i] -= first + i < dim ? centre[first + i] : 0.0f;
    if (!finite(t[i])) {
      told |= 2;
      t[i] = 0.0f;
    }
  }
  return told;
}

}  // namespace cuda
}  // namespace vqgan_fast
