// What the levels with vectors of 32 bytes share: 6 rows by 2 vectors of 8 codes in 12
// accumulators, which leaves one register for a row, two for codes and one for their products.
// Included by screen_{int16,int8}_<level>.cpp alone.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/quantised_kernels.h"

namespace vqgan_fast {
namespace {

struct Avx2Vectors {
  static constexpr int kVectors = 2;
  static constexpr int kLanes = 8;
  static constexpr int kTileRows = 6;
  static constexpr int64_t kLeastDimToMark = 48;
  using Int = __m256i;
  using Real = __m256d;
  using Short = __m128i;  // as many int16s as Real has doubles, in the low half

  static Int load(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Int load_elements(const int16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static void store(int32_t* p, Int a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
  static Int broadcast(int32_t a) { return _mm256_set1_epi32(a); }
  static Int broadcast_elements(const int16_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    return _mm256_set1_epi32(pair);
  }
  static Int shift(Int a, const int32_t* count) {
    return _mm256_sra_epi32(a, _mm_cvtsi32_si128(*count));
  }
  static Int add(Int a, Int b) { return _mm256_add_epi32(a, b); }
  static Int min(Int a, Int b) { return _mm256_min_epi32(a, b); }
  static Int max(Int a, Int b) { return _mm256_max_epi32(a, b); }
  static Int replace_low_bits(Int a, Int tag) {
    return _mm256_or_si256(_mm256_and_si256(a, _mm256_set1_epi32(~kInt16TagMask)), tag);
  }
  static int32_t smallest(Int a) {
    __m128i b = _mm_min_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    b = _mm_min_epi32(b, _mm_shuffle_epi32(b, 0x4e));
    return _mm_cvtsi128_si32(_mm_min_epi32(b, _mm_shuffle_epi32(b, 0xb1)));
  }
  static uint32_t within(Int a, int32_t limit) {
    const Int above = _mm256_cmpgt_epi32(a, _mm256_set1_epi32(limit));
    return ~_mm256_movemask_ps(_mm256_castsi256_ps(above)) & 0xffu;
  }
  static uint64_t marked_words(const uint16_t* marks) {
    uint64_t unmarked = 0;
    for (int v = 0; v < kMarkedVectors; v += 32) {
      const auto is_zero = [&](int w) {
        const Int words = load_elements(reinterpret_cast<const int16_t*>(marks + v + w));
        return _mm256_cmpeq_epi16(words, _mm256_setzero_si256());
      };
      // Packing goes by halves of vectors; the order of their quarters puts it right.
      const Int bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(is_zero(0), is_zero(16)), 0xd8);
      unmarked |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_epi8(bytes))) << v;
    }
    return ~unmarked;
  }
  static Short narrow(Real a) {
    const __m128i ints = _mm256_cvttpd_epi32(a);
    return _mm_packs_epi32(ints, ints);
  }
};

}  // namespace
}  // namespace vqgan_fast
