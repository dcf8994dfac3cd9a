// What the AVX2 and the AVX-512 level share: reading codes of any type, and pairs. 256-bit vectors
// serve both, because what bounds the pairs is the shuffles, of which a CPU does as many bits a
// cycle either way. Everything here is in an unnamed namespace, so that each level keeps a copy of
// its own.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/code_distances_few_rows.h"
#include "kernels/cpu/code_distances_kernels.h"

namespace vqgan_fast {
namespace {

// One struct for each type of a code's elements: four neighbours, or one, in fp32 or fp64.
struct ReadFp64 {
  using Element = double;
  static __m256d four_fp64(const double* p) { return _mm256_loadu_pd(p); }
  static __m128 four_fp32(const double* p) { return _mm256_cvtpd_ps(_mm256_loadu_pd(p)); }
  static double one(const double* p) { return *p; }
};

struct ReadFp32 {
  using Element = float;
  static __m128 four_fp32(const float* p) { return _mm_loadu_ps(p); }
  static __m256 eight_fp32(const float* p) { return _mm256_loadu_ps(p); }
  static __m256 some_fp32(const float* p, int count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane));
  }
  static __m256d four_fp64(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
  static double one(const float* p) { return *p; }
};

__m128i load_four(const uint16_t* p) {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
}

__m128i load_eight(const uint16_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}

__m128i load_some(const uint16_t* p, int count) {
  // Not through memory: a load of what was just stored in pieces waits for all of them.
  uint64_t half[2] = {0, 0};
  for (int i = 0; i < 4 && i < count; ++i) half[0] |= static_cast<uint64_t>(p[i]) << (16 * i);
  for (int i = 4; i < count; ++i) half[1] |= static_cast<uint64_t>(p[i]) << (16 * (i - 4));
  return _mm_set_epi64x(static_cast<int64_t>(half[1]), static_cast<int64_t>(half[0]));
}

struct ReadBf16 {
  using Element = uint16_t;
  static __m128 four_fp32(const uint16_t* p) {
    return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(load_four(p)), 16));
  }
  static __m256 widen(__m128i eight) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight), 16));
  }
  static __m256 eight_fp32(const uint16_t* p) { return widen(load_eight(p)); }
  static __m256 some_fp32(const uint16_t* p, int count) { return widen(load_some(p, count)); }
  static __m256d four_fp64(const uint16_t* p) { return _mm256_cvtps_pd(four_fp32(p)); }
  static double one(const uint16_t* p) {
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(*p) << 16)));
  }
};

struct ReadFp16 {
  using Element = uint16_t;
  static __m128 four_fp32(const uint16_t* p) { return _mm_cvtph_ps(load_four(p)); }
  static __m256 eight_fp32(const uint16_t* p) { return _mm256_cvtph_ps(load_eight(p)); }
  static __m256 some_fp32(const uint16_t* p, int count) {
    return _mm256_cvtph_ps(load_some(p, count));
  }
  static __m256d four_fp64(const uint16_t* p) { return _mm256_cvtps_pd(four_fp32(p)); }
  static double one(const uint16_t* p) { return _cvtsh_ss(*p); }
};

// Four pairs in lanes, d ascending: four differences of each pair are transposed, then added one
// after the other.
template <class Read, int kGroups>
void measure_groups(const double* const* z, const void* const* codes, int64_t dim,
                    double* distances) {
  const auto* const* e = reinterpret_cast<const typename Read::Element* const*>(codes);
  __m256d acc[kGroups];
#pragma GCC unroll 4
  for (int g = 0; g < kGroups; ++g) acc[g] = _mm256_setzero_pd();
  int64_t d = 0;
  for (; d + 4 <= dim; d += 4) {
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) {
      __m256d x[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        x[i] = _mm256_sub_pd(_mm256_loadu_pd(z[4 * g + i] + d), Read::four_fp64(e[4 * g + i] + d));
      }
      const __m256d even01 = _mm256_unpacklo_pd(x[0], x[1]);
      const __m256d odd01 = _mm256_unpackhi_pd(x[0], x[1]);
      const __m256d even23 = _mm256_unpacklo_pd(x[2], x[3]);
      const __m256d odd23 = _mm256_unpackhi_pd(x[2], x[3]);
      const __m256d x0 = _mm256_permute2f128_pd(even01, even23, 0x20);
      const __m256d x1 = _mm256_permute2f128_pd(odd01, odd23, 0x20);
      const __m256d x2 = _mm256_permute2f128_pd(even01, even23, 0x31);
      const __m256d x3 = _mm256_permute2f128_pd(odd01, odd23, 0x31);
      acc[g] = _mm256_fmadd_pd(x0, x0, acc[g]);
      acc[g] = _mm256_fmadd_pd(x1, x1, acc[g]);
      acc[g] = _mm256_fmadd_pd(x2, x2, acc[g]);
      acc[g] = _mm256_fmadd_pd(x3, x3, acc[g]);
    }
  }
#pragma GCC unroll 4
  for (int g = 0; g < kGroups; ++g) _mm256_storeu_pd(distances + 4 * g, acc[g]);
  if (d == dim) return;
  for (int i = 0; i < 4 * kGroups; ++i) {
    for (int64_t tail = d; tail < dim; ++tail) {
      const double difference = z[i][tail] - Read::one(e[i] + tail);
      distances[i] = __builtin_fma(difference, difference, distances[i]);
    }
  }
}

template <class Read>
void pairs(const double* const* z, const void* const* codes, int num_pairs, int64_t dim,
           double* distances) {
  // A search of few rows ends with few pairs.
  const auto measure =
      num_pairs <= 4 ? measure_groups<Read, 1> : measure_groups<Read, kPairsAtOnce / 4>;
  measure(z, codes, dim, distances);
}

// Transposes blocks of Simd::kLanes codes by four columns; the last block of columns overlaps the
// one before it where dim is no multiple of four.
template <class Read, class Simd>
void pack(const void* codes, int64_t stride, int64_t count, int64_t dim,
          typename Simd::Scalar* panel) {
  constexpr int kPanelCodes = Simd::kLanes * Simd::kVectors;
  const auto* first = static_cast<const typename Read::Element*>(codes);
  for (int lane = 0; lane < kPanelCodes; lane += Simd::kLanes) {
    const typename Read::Element* e[Simd::kLanes];
    for (int i = 0; i < Simd::kLanes; ++i) {
      e[i] = first + (lane + i < count ? lane + i : count - 1) * stride;
    }
    const char* next = reinterpret_cast<const char*>(e[0] + kPanelCodes * stride);
    if (dim < 4) {
      for (int64_t d = 0; d < dim; ++d) {
        for (int i = 0; i < Simd::kLanes; ++i) {
          panel[d * kPanelCodes + lane + i] =
              static_cast<typename Simd::Scalar>(Read::one(e[i] + d));
        }
      }
      continue;
    }
    for (int64_t d = 0;; d = d + 8 <= dim ? d + 4 : dim - 4) {
      typename Simd::Vector column[4];
      Simd::template load_columns<Read>(e, d, column);
      for (int i = 0; i < 4; ++i) Simd::store(panel + (d + i) * kPanelCodes + lane, column[i]);
      if (d + 4 == dim) break;
      // Codes mostly follow each other: so many bytes further in the next panel.
      constexpr int kBytes = 4 * Simd::kLanes * sizeof(typename Read::Element);
      for (int byte = 0; byte < kBytes; byte += 64) __builtin_prefetch(next + byte, 0, 2);
      next += kBytes;
    }
  }
}

// Elements of a code in lanes.
struct Across {
  using Vector = __m256;
  static constexpr int kLanes = 8;

  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector load_row(const float* p) { return _mm256_loadu_ps(p); }
  static Vector add_square(Vector x, Vector acc) { return _mm256_fmadd_ps(x, x, acc); }

  template <class Read>
  static Vector load(const typename Read::Element* p) {
    return Read::eight_fp32(p);
  }

  template <class Read>
  static Vector load_some(const typename Read::Element* p, int count) {
    return Read::some_fp32(p, count);
  }

  static Vector sum_two(Vector a, Vector b) {
    return _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
  }
  // of a pair's sums each
  static Vector sum_four(Vector ab, Vector cd) {
    return _mm256_add_ps(_mm256_shuffle_ps(ab, cd, _MM_SHUFFLE(1, 0, 1, 0)),
                         _mm256_shuffle_ps(ab, cd, _MM_SHUFFLE(3, 2, 3, 2)));
  }

  // sums[i] = the sum of acc[i]'s lanes, written if one of them is not above limit[i].
  static bool any_not_above(const Vector* acc, const float* limit, float* sums) {
    const Vector low = sum_four(sum_two(acc[0], acc[1]), sum_two(acc[2], acc[3]));
    const Vector high = sum_four(sum_two(acc[4], acc[5]), sum_two(acc[6], acc[7]));
    const Vector sum = _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20),
                                     _mm256_permute2f128_ps(low, high, 0x31));
    const Vector kept = _mm256_cmp_ps(sum, _mm256_load_ps(limit), _CMP_NGT_UQ);
    if (_mm256_movemask_ps(kept) == 0) return false;
    _mm256_store_ps(sums, sum);
    return true;
  }
};

template <class Read, class Fp32, class Fp64>
constexpr CodeKernels code_kernels() {
  CodeKernels kernels = {sizeof(typename Read::Element),
                         pairs<Read>,
                         pack<Read, Fp32>,
                         pack<Read, Fp64>,
                         nullptr,
                         nullptr};
  if constexpr (sizeof(typename Read::Element) < sizeof(double)) {
    kernels.few_rows = few_rows<Across, Read>;
    kernels.listed = listed<Across, Read>;
  }
  return kernels;
}

template <class Fp32, class Fp64>
constexpr CodeDistanceKernels x86_kernels() {
  return {direct_kernel<Fp32>(),
          direct_kernel<Fp64>(),
          code_kernels<ReadFp32, Fp32, Fp64>(),
          code_kernels<ReadFp64, Fp32, Fp64>(),
          code_kernels<ReadBf16, Fp32, Fp64>(),
          code_kernels<ReadFp16, Fp32, Fp64>()};
}

}  // namespace
}  // namespace vqgan_fast
