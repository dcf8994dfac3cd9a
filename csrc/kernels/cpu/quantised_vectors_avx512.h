// What the levels with AVX-512 share: 6 rows by 4 vectors of 16 codes in 24 accumulators. Included
// by screen_{int16,int8}_<level>.cpp alone.
#pragma once

// GCC 12 takes the undefined operand of its own unmasked intrinsics for a mistake of their caller.
#pragma GCC diagnostic ignored "-Wuninitialized"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/avx512_instructions.h"
#include "kernels/cpu/quantised_kernels.h"

namespace vqgan_fast {
namespace {

struct Avx512Vectors {
  static constexpr int kVectors = 4;
  static constexpr int kLanes = 16;
  static constexpr int kTileRows = 6;
  static constexpr int64_t kLeastDimToMark = 1;
  using Int = __m512i;
  using Real = __m512d;
  using Short = __m128i;

  static Int load(const int32_t* p) { return _mm512_loadu_si512(p); }
  static Int load_elements(const int16_t* p) { return _mm512_loadu_si512(p); }
  static void store(int32_t* p, Int a) { _mm512_storeu_si512(p, a); }
  static Int broadcast(int32_t a) { return _mm512_set1_epi32(a); }
  static Int broadcast_elements(const int16_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    return _mm512_set1_epi32(pair);
  }
  static Int shift(Int a, const int32_t* count) {
    return _mm512_sra_epi32(a, _mm_cvtsi32_si128(*count));
  }
  static Int add(Int a, Int b) { return _mm512_add_epi32(a, b); }
  static Int min(Int a, Int b) { return _mm512_min_epi32(a, b); }
  static Int max(Int a, Int b) { return _mm512_max_epi32(a, b); }
  static Int replace_low_bits(Int a, Int tag) {
    constexpr int kAndNotOr = 0xdc;  // (a and not mask) or tag
    return _mm512_ternarylogic_epi32(a, tag, _mm512_set1_epi32(kInt16TagMask), kAndNotOr);
  }
  static int32_t smallest(Int a) { return _mm512_reduce_min_epi32(a); }
  static uint32_t within(Int a, int32_t limit) {
    return _mm512_cmple_epi32_mask(a, _mm512_set1_epi32(limit));
  }
  static uint64_t marked_words(const uint16_t* marks) {
    const Int low = _mm512_loadu_si512(marks), high = _mm512_loadu_si512(marks + 32);
    return _mm512_test_epi16_mask(low, low) |
           static_cast<uint64_t>(_mm512_test_epi16_mask(high, high)) << 32;
  }
  static Short narrow(Real a) { return _mm256_cvtsepi32_epi16(_mm512_cvttpd_epi32(a)); }
};

}  // namespace
}  // namespace vqgan_fast
