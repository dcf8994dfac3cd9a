// The definition of the distance, for one row and one code: docs/numerics.md, "Definition".
#pragma once

#include <cstdint>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/tiling.h"

namespace vqgan_fast {
namespace cuda {

__device__ inline bool is_finite(double x) { return x - x == 0.0; }

__device__ inline bool row_is_finite(const Rows& z, int64_t row, int64_t dim) {
  const int64_t offset = row_offset(z, row);
  for (int64_t d = 0; d < dim; ++d) {
    if (!is_finite(load_element(z.data, z.dtype, offset + d * z.element_stride))) return false;
  }
  return true;
}

__device__ inline double take_column(double acc, double x, double e) {
  return fma(x - e, x - e, acc);
}

// Four elements from `offset` on; `data` and offset allow one aligned load of them.
__device__ inline void load_four(const void* data, DType dtype, int64_t offset, double (&x)[4]) {
  if (dtype == DType::kFloat32) {
    const float4 four = *reinterpret_cast<const float4*>(static_cast<const float*>(data) + offset);
    x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
    return;
  }
  const ushort4 four =
      *reinterpret_cast<const ushort4*>(static_cast<const uint16_t*>(data) + offset);
  if (dtype == DType::kBFloat16) {
    x[0] = load_bfloat16(four.x), x[1] = load_bfloat16(four.y);
    x[2] = load_bfloat16(four.z), x[3] = load_bfloat16(four.w);
  } else {
    x[0] = load_float16(four.x), x[1] = load_float16(four.y);
    x[2] = load_float16(four.z), x[3] = load_float16(four.w);
  }
}

// `fours`: both rows lie in memory so that load_four may read them (fours_allowed).
__device__ inline double squared_distance(const Rows& z, int64_t z_offset, const Rows& codebook,
                                          int64_t e_offset, int64_t dim, bool fours) {
  double acc = 0.0;
  int64_t d = 0;
  if (fours) {
    for (; d + 4 <= dim; d += 4) {
      double x[4];
      double e[4];
      load_four(z.data, z.dtype, z_offset + d, x);
      load_four(codebook.data, codebook.dtype, e_offset + d, e);
#pragma unroll
      for (int i = 0; i < 4; ++i) acc = take_column(acc, x[i], e[i]);
    }
  }
  for (; d < dim; ++d) {
    acc = take_column(
        acc, load_element(z.data, z.dtype, z_offset + d * z.element_stride),
        load_element(codebook.data, codebook.dtype, e_offset + d * codebook.element_stride));
  }
  return acc;
}

}  // namespace cuda

// Whether every row begins where four elements can be loaded at once.
inline bool fours_allowed(const Rows& rows) {
  const bool half = rows.dtype == DType::kBFloat16 || rows.dtype == DType::kFloat16;
  if (rows.dtype == DType::kFloat64) return false;
  return rows.element_stride == 1 && rows.inner_stride % 4 == 0 && rows.outer_stride % 4 == 0 &&
         reinterpret_cast<uintptr_t>(rows.data) % (half ? 8 : 16) == 0;
}

}  // namespace vqgan_fast
