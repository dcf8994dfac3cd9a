// The innermost loops over the rows of codes, which every SIMD level writes for itself: plain
// structs and pointers only, so that no copy compiled for one level can be linked into another.
// Results are the same bits at every level, but for those of a NaN.
#pragma once

#include <cstdint>

#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

// Groups, their codes and rows are those of code_groups.h. Tables are indexed by DType.
struct CodeSums {
  static constexpr int kTypes = 4;
  // The rows of a code lie anywhere in z, so that no hardware foresees the next one: they are asked
  // for this far behind the last, as many lines as the L2 can wait for at a time. L1 waits for half
  // as many, and asked for from there rows of 1 KiB come at half the rate.
  static constexpr int64_t kRowsAhead = 32;
  // As many as a code's sums have in a line of the caches.
  static constexpr int64_t kColumnsOfLine = 64 / sizeof(double);

  // codes[g] = the g-th code that has rows, first[g] = how many rows the codes before it have.
  // Returns the number of those codes.
  int64_t (*list_groups)(const int64_t* counts, int64_t num_codes, int64_t* codes, int64_t* first);

  // sums[g * columns + c] = the sum of z[offsets[i] + c] over the rows i of group g in their order,
  // in fp64, from 0 on.
  void (*add_rows[kTypes])(const void* z, const int64_t* offsets, const int64_t* first,
                           int64_t num_groups, int64_t columns, double* sums);

  // sums[group[r] * columns + c] += z[c * column_stride + r], r ascending, in fp64, for
  // kColumnsOfLine columns or fewer. What lies at `later` as z lies at z is wanted soon, and asked
  // for on the way; it is not used.
  void (*add_columns[kTypes])(const void* z, int64_t column_stride, const void* later,
                              const int32_t* group, int64_t num_rows, int64_t columns,
                              double* sums);

  // out[codes[g] * stride + c] = sums[g * columns + c], rounded.
  void (*store_sums[kTypes])(const double* sums, const int64_t* codes, int64_t num_groups,
                             int64_t columns, void* out, int64_t stride);

  // The same for scale * (count_g * e[codes[g] * e_stride + c] - sums[g * columns + c]).
  void (*store_gradients[kTypes])(const double* sums, const int64_t* codes, const int64_t* first,
                                  int64_t num_groups, int64_t columns, double scale, const void* e,
                                  int64_t e_stride, void* out, int64_t stride);
};

extern const CodeSums kCodeSumsBaseline;
#ifdef VQGAN_FAST_HAS_CODE_SUMS_AVX2
extern const CodeSums kCodeSumsAvx2;
#endif
#ifdef VQGAN_FAST_HAS_CODE_SUMS_AVX512
extern const CodeSums kCodeSumsAvx512;
#endif

// The loops of the highest level that is compiled in and not above `level`.
inline const CodeSums& code_sums(SimdLevel level) {
#ifdef VQGAN_FAST_HAS_CODE_SUMS_AVX512
  if (level >= SimdLevel::kAvx512) return kCodeSumsAvx512;
#endif
#ifdef VQGAN_FAST_HAS_CODE_SUMS_AVX2
  if (level >= SimdLevel::kAvx2) return kCodeSumsAvx2;
#endif
  static_cast<void>(level);
  return kCodeSumsBaseline;
}

}  // namespace vqgan_fast
