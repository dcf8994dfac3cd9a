// The innermost loops of soft_assign, which every SIMD level writes for itself: plain structs and
// pointers only, so that no copy compiled for one level can be linked into another.
//
// One side of a pass owns rows (latents, or codes); the other passes by in blocks of columns. A
// tile has kSoftBlockRows rows of kSoftBlockColumns numbers. What lies in columns is packed in
// panels of `panel` columns.
#pragma once

#include <cstdint>

#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

constexpr int64_t kSoftRowStep = 12;  // rows of a tile are padded to a multiple of this
constexpr int64_t kSoftBlockRows = 4 * kSoftRowStep;
constexpr int64_t kSoftBlockColumns = 256;

// Where the gradients of a row find what they need; what a row has is added to what its columns
// have. Without column_add the tile holds u already, and scale, add and noise do not count.
template <class T>
struct SoftGradientRow {
  T scale;  // of the tile's products
  T add;
  bool add_first;  // before column_add: what is a code's, so that u is the same bits in every pass
  T excess;
  T term, term_low;  // a number in two parts, for the terms of a row and a column may cancel
  T entropy;
  const T* column_add;  // or null
  const T* column_excess;
  const T *column_term, *column_term_low;
  const T* column_entropy;
  const T* noise;  // scaled, or null
};

template <class T>
struct SoftAssignLoops {
  int panel;

  // tile[r * kSoftBlockColumns + p * panel + j] = sum over i, ascending, of
  // x[r * stride + i] * panels[(p * inner + i) * panel + j]; num_rows is a multiple of
  // kSoftRowStep.
  void (*multiply)(const T* x, int64_t stride, int64_t num_rows, const T* panels, int64_t inner,
                   int64_t num_panels, T* tile);

  // out[r * out_stride + p * panel + j] += the same sum.
  void (*add_product)(const T* x, int64_t stride, int64_t num_rows, const T* panels, int64_t inner,
                      int64_t num_panels, T* out, int64_t out_stride);

  // `multiply` with products and sums in fp64.
  void (*multiply_wide)(const double* x, int64_t stride, int64_t num_rows, const T* panels,
                        int64_t inner, int64_t num_panels, double* tile);

  // row[j] = scale * row[j] + add[j] + noise[j]; the largest is returned. noise may be null.
  T (*logits)(T* row, int64_t n, T scale, const T* add, const T* noise);
  double (*logits_wide)(double* row, int64_t n, double scale, const double* add, const T* noise);

  // out[j] = row[j] + add
  void (*narrow)(const double* row, int64_t n, double add, T* out);

  // With x = row[j] - largest: row[j] = exp(x), *weighted = sum of x exp(x); the sum of exp(x),
  // added up in fp64, is returned.
  double (*exponentials)(T* row, int64_t n, T largest, T* weighted);

  // row[j] *= factor
  void (*rescale)(T* row, int64_t n, T factor);

  // row[j] = factor[j] exp(scale * row[j] + add[j] + row_add + noise[j]), or factor[j] exp(row[j])
  // without `add`; the sum, added up in fp64, is returned.
  double (*probabilities)(T* row, int64_t n, T scale, T row_add, const T* add, const T* noise,
                          const T* factor);

  // With u = (scale * products[j] + column_add[j]) + add + noise[j], or the other one first, and
  // p = exp(u - excess - column_excess[j]), and both parts of the terms:
  // products[j] = p (term + column_term[j] + values[j] - (entropy + column_entropy[j]) u), the sum
  // of which is returned; values[j] = p. values may be null.
  T (*gradients)(const SoftGradientRow<T>& row, int64_t n, T* products, T* values);

  // Gumbel noise times `scale` of latent `row` and codes first .. first + n - 1; first is a
  // multiple of 4, and n is rounded up to a multiple of 64. docs/soft_assign.md has the definition.
  void (*noise_of_codes)(uint64_t seed, uint64_t row, uint64_t first, int64_t n, T scale, T* out);

  // The same of codes first .. first + 3, first a multiple of 4, and latents row .. row + n - 1:
  // out[i * kSoftBlockColumns + j]. No multiple of 2^32 lies between the latents.
  void (*noise_of_rows)(uint64_t seed, uint64_t first, uint64_t row, int64_t n, T scale, T* out);
};

extern const SoftAssignLoops<float> kSoftAssignBaseline;
// fp64 is for checking gradients and the like: no level has its own.
extern const SoftAssignLoops<double> kSoftAssignFp64;
#ifdef VQGAN_FAST_HAS_SOFT_ASSIGN_AVX2
extern const SoftAssignLoops<float> kSoftAssignAvx2;
#endif
#ifdef VQGAN_FAST_HAS_SOFT_ASSIGN_AVX512
extern const SoftAssignLoops<float> kSoftAssignAvx512;
#endif

template <class T>
const SoftAssignLoops<T>& soft_assign_loops(SimdLevel level);

template <>
inline const SoftAssignLoops<double>& soft_assign_loops<double>(SimdLevel) {
  return kSoftAssignFp64;
}

// Those of the highest level that is compiled in and not above `level`.
template <>
inline const SoftAssignLoops<float>& soft_assign_loops<float>(SimdLevel level) {
#ifdef VQGAN_FAST_HAS_SOFT_ASSIGN_AVX512
  if (level >= SimdLevel::kAvx512) return kSoftAssignAvx512;
#endif
#ifdef VQGAN_FAST_HAS_SOFT_ASSIGN_AVX2
  if (level >= SimdLevel::kAvx2) return kSoftAssignAvx2;
#endif
  static_cast<void>(level);
  return kSoftAssignBaseline;
}

}  // namespace vqgan_fast
