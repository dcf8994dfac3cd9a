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

// Four elements that one load brings, as doubles.
__device__ inline void widen(const float4& four, DType, double (&x)[4]) {
  x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
}
__device__ inline void widen(const ushort4& four, DType dtype, double (&x)[4]) {
  if (dtype == DType::kBFloat16) {
    x[0] = load_bfloat16(four.x), x[1] = load_bfloat16(four.y);
    x[2] = load_bfloat16(four.z), x[3] = load_bfloat16(four.w);
  } else {
    x[0] = load_float16(four.x), x[1] = load_float16(four.y);
    x[2] = load_float16(four.z), x[3] = load_float16(four.w);
  }
}

template <class Four>
__device__ const Four* fours_at(const Rows& rows, int64_t offset) {
  return reinterpret_cast<const Four*>(static_cast<const char*>(rows.data) +
                                       offset * static_cast<int64_t>(sizeof(Four) / 4));
}

// The sum over the first 4 `fours` columns, of which 4 kFours are asked for before the first of
// them is waited for: a code comes from far away.
template <class ZFour, class EFour, int kFours>
__device__ double sum_fours(const Rows& z, int64_t z_offset, const Rows& codebook, int64_t e_offset,
                            int64_t fours) {
  const ZFour* x = fours_at<ZFour>(z, z_offset);
  const EFour* e = fours_at<EFour>(codebook, e_offset);
  double acc = 0.0;
#pragma unroll 1
  for (int64_t at = 0; at < fours; at += kFours) {
    ZFour x_fours[kFours] = {};
    EFour e_fours[kFours] = {};
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
      if (at + i < fours) x_fours[i] = x[at + i], e_fours[i] = e[at + i];
    }
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
      double xs[4];
      double es[4];
      widen(x_fours[i], z.dtype, xs);
      widen(e_fours[i], codebook.dtype, es);
#pragma unroll
      for (int k = 0; k < 4; ++k) acc = take_column(acc, xs[k], es[k]);  // of zeros at the end: acc
    }
  }
  return acc;
}

// `fours`: both rows lie in memory so that four elements may be loaded at once (fours_allowed).
// kFours: how many such loads of each are on their way at a time.
template <int kFours>
__device__ double squared_distance(const Rows& z, int64_t z_offset, const Rows& codebook,
                                   int64_t e_offset, int64_t dim, bool fours) {
  double acc = 0.0;
  int64_t d = 0;
  if (fours) {
    d = dim / 4 * 4;
    const bool z_wide = z.dtype == DType::kFloat32, e_wide = codebook.dtype == DType::kFloat32;
    if (z_wide && e_wide) {
      acc = sum_fours<float4, float4, kFours>(z, z_offset, codebook, e_offset, dim / 4);
    } else if (z_wide) {
      acc = sum_fours<float4, ushort4, kFours>(z, z_offset, codebook, e_offset, dim / 4);
    } else if (e_wide) {
      acc = sum_fours<ushort4, float4, kFours>(z, z_offset, codebook, e_offset, dim / 4);
    } else {
      acc = sum_fours<ushort4, ushort4, kFours>(z, z_offset, codebook, e_offset, dim / 4);
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
