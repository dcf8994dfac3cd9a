// Stands in for <immintrin.h>, so that csrc/kernels/cpu/*_avx512*.cpp, *_avxvnni.cpp and *_amx.cpp
// run on a CPU that has AVX2 and no more: the intrinsics of AVX-512 and AMX are functions in
// namespace emulated. Where AVX2 has the same instruction, both halves of a vector go through it;
// the others do what Intel's guide says of each lane. What the guide leaves undefined is filled
// with ones, which make a NaN of a float; what a CPU would fault on ends the program.
// check_intrinsics.cpp holds all of them against plain C++.
#pragma once

#include_next <immintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emulated {

inline void check(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

// --- Halves

struct Floats {
  __m256 half[2];
};
struct Doubles {
  __m256d half[2];
};
struct Integers {
  __m256i half[2];
};
template <class To, class From>
inline To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "a cast of bits");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline Floats split(__m512 a) { return bits_as<Floats>(a); }
inline Doubles split(__m512d a) { return bits_as<Doubles>(a); }
inline Integers split(__m512i a) { return bits_as<Integers>(a); }
inline __m512 join(__m256 low, __m256 high) {
  __m512 a;
  const Floats halves{{low, high}};
  std::memcpy(&a, &halves, sizeof a);
  return a;
}
inline __m512d join(__m256d low, __m256d high) {
  __m512d a;
  const Doubles halves{{low, high}};
  std::memcpy(&a, &halves, sizeof a);
  return a;
}
inline __m512i join(__m256i low, __m256i high) {
  __m512i a;
  const Integers halves{{low, high}};
  std::memcpy(&a, &halves, sizeof a);
  return a;
}
// An instruction on both halves.
template <class Instruction, class... Vectors>
inline auto by_halves(const Instruction& instruction, const Vectors&... a) {
  return join(instruction(split(a).half[0]...), instruction(split(a).half[1]...));
}

// --- Memory and constants
// -------------------------------------------------------------------------

inline __m512 loadu_ps(const float* p) { return join(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
inline __m512d loadu_pd(const double* p) {
  return join(_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4));
}
inline __m512i loadu_si512(const void* p) {
  const auto* halves = static_cast<const __m256i*>(p);
  return join(_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1));
}
inline void storeu_ps(float* p, __m512 a) { std::memcpy(p, &a, sizeof a); }
inline void storeu_pd(double* p, __m512d a) { std::memcpy(p, &a, sizeof a); }
inline void storeu_si512(void* p, __m512i a) { std::memcpy(p, &a, sizeof a); }

inline void check_aligned(const void* p) {
  check(reinterpret_cast<uintptr_t>(p) % 64 == 0, "an aligned load or store elsewhere");
}
inline __m512 load_ps(const float* p) {
  check_aligned(p);
  return loadu_ps(p);
}
inline void store_ps(float* p, __m512 a) {
  check_aligned(p);
  storeu_ps(p, a);
}

inline __m512 set1_ps(float x) { return join(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
inline __m512d set1_pd(double x) { return join(_mm256_set1_pd(x), _mm256_set1_pd(x)); }
inline __m512i set1_epi32(int32_t x) { return join(_mm256_set1_epi32(x), _mm256_set1_epi32(x)); }
inline __m512i set1_epi64(int64_t x) { return join(_mm256_set1_epi64x(x), _mm256_set1_epi64x(x)); }
inline __m512 setzero_ps() { return set1_ps(0.0f); }
inline __m512d setzero_pd() { return set1_pd(0.0); }
template <class... Lanes>
inline __m512i setr_epi32(Lanes... lanes) {
  const int32_t all[16] = {lanes...};
  static_assert(sizeof...(Lanes) == 16, "one for each lane");
  return loadu_si512(all);
}
template <class... Lanes>
inline __m512i setr_epi64(Lanes... lanes) {
  const int64_t all[8] = {lanes...};
  static_assert(sizeof...(Lanes) == 8, "one for each lane");
  return loadu_si512(all);
}

inline __m512d castps_pd(__m512 a) { return (__m512d)a; }
inline __m512 castpd_ps(__m512d a) { return (__m512)a; }
inline __m512i castps_si512(__m512 a) { return (__m512i)a; }
inline __m512 castsi512_ps(__m512i a) { return (__m512)a; }
inline __m512 castps128_ps512(__m128 a) {
  __m512 wide = castsi512_ps(set1_epi32(-1));
  std::memcpy(&wide, &a, sizeof a);
  return wide;
}
inline __m512d castpd256_pd512(__m256d a) {
  return join(a, _mm256_castsi256_pd(_mm256_set1_epi32(-1)));
}

// --- Arithmetic

#define BY_HALVES(type, name, instruction)                                            \
  template <class... Vectors>                                                         \
  inline type name(const Vectors&... a) {                                             \
    return by_halves([](const auto&... half) { return instruction(half...); }, a...); \
  }
BY_HALVES(__m512, add_ps, _mm256_add_ps)
BY_HALVES(__m512, sub_ps, _mm256_sub_ps)
BY_HALVES(__m512, mul_ps, _mm256_mul_ps)
BY_HALVES(__m512, min_ps, _mm256_min_ps)
BY_HALVES(__m512, max_ps, _mm256_max_ps)
BY_HALVES(__m512, fmadd_ps, _mm256_fmadd_ps)
BY_HALVES(__m512, fnmadd_ps, _mm256_fnmadd_ps)
BY_HALVES(__m512, unpacklo_ps, _mm256_unpacklo_ps)
BY_HALVES(__m512, unpackhi_ps, _mm256_unpackhi_ps)
BY_HALVES(__m512d, sub_pd, _mm256_sub_pd)
BY_HALVES(__m512d, min_pd, _mm256_min_pd)
BY_HALVES(__m512d, max_pd, _mm256_max_pd)
BY_HALVES(__m512d, fmadd_pd, _mm256_fmadd_pd)
BY_HALVES(__m512d, unpacklo_pd, _mm256_unpacklo_pd)
BY_HALVES(__m512d, unpackhi_pd, _mm256_unpackhi_pd)
BY_HALVES(__m512i, and_si512, _mm256_and_si256)
BY_HALVES(__m512i, add_epi32, _mm256_add_epi32)
BY_HALVES(__m512i, min_epi32, _mm256_min_epi32)
BY_HALVES(__m512i, max_epi32, _mm256_max_epi32)
BY_HALVES(__m512i, madd_epi16, _mm256_madd_epi16)
BY_HALVES(__m512i, mul_epu32, _mm256_mul_epu32)
BY_HALVES(__m512, cvtepi32_ps, _mm256_cvtepi32_ps)
#undef BY_HALVES

// Two products and a sum that wraps: what vpdpwssd of VNNI does.
inline __m512i dpwssd_epi32(__m512i acc, __m512i a, __m512i b) {
  return add_epi32(acc, madd_epi16(a, b));
}
inline __m256i dpwssd_epi32(__m256i acc, __m256i a, __m256i b) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
}
// Four products of unsigned and signed bytes and a sum that wraps: vpdpbusd of VNNI.
inline __m256i dpbusd_epi32(__m256i acc, __m256i a, __m256i b) {
  const __m256i kByte = _mm256_set1_epi16(255);
  const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8);
  const __m256i odd = _mm256_srai_epi16(b, 8);
  acc = _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_and_si256(a, kByte), even));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_srli_epi16(a, 8), odd));
}
inline __m512i dpbusd_epi32(__m512i acc, __m512i a, __m512i b) {
  return by_halves([](__m256i sum, __m256i x, __m256i y) { return dpbusd_epi32(sum, x, y); }, acc,
                   a, b);
}
inline __m512i slli_epi32(__m512i a, int n) {
  return by_halves([=](__m256i half) { return _mm256_slli_epi32(half, n); }, a);
}
inline __m512i slli_epi64(__m512i a, int n) {
  return by_halves([=](__m256i half) { return _mm256_slli_epi64(half, n); }, a);
}
inline __m512i srli_epi64(__m512i a, int n) {
  return by_halves([=](__m256i half) { return _mm256_srli_epi64(half, n); }, a);
}
inline __m512i sra_epi32(__m512i a, __m128i count) {
  return by_halves([=](__m256i half) { return _mm256_sra_epi32(half, count); }, a);
}
// Bit i of imm8 stands for what the bits of a, b and c are if they make the number i.
inline __m512i ternarylogic_epi32(__m512i a, __m512i b, __m512i c, int imm8) {
  __m512i result = set1_epi32(0);
  for (int i = 0; i < 8; ++i) {
    if ((imm8 >> i & 1) == 0) continue;
    result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  }
  return result;
}
// The upper half against the lower one, and so on.
template <class T>
inline T reduce_min(const T (&all)[16]) {
  T least[16];
  std::memcpy(least, all, sizeof least);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      least[i] = least[i] < least[i + half] ? least[i] : least[i + half];
    }
  }
  return least[0];
}
template <class T>
struct Lanes {
  T lane[64 / sizeof(T)];
};
template <class T, class Vector>
inline Lanes<T> lanes_of(const Vector& a) {
  return bits_as<Lanes<T>>(a);
}
inline float reduce_min_ps(__m512 a) { return reduce_min(lanes_of<float>(a).lane); }
inline int32_t reduce_min_epi32(__m512i a) { return reduce_min(lanes_of<int32_t>(a).lane); }

// --- Conversions

inline __m512d cvtps_pd(__m256 a) {
  return join(_mm256_cvtps_pd(_mm256_castps256_ps128(a)),
              _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)));
}
inline __m256 cvtpd_ps(__m512d a) {
  return _mm256_set_m128(_mm256_cvtpd_ps(split(a).half[1]), _mm256_cvtpd_ps(split(a).half[0]));
}
inline __m256i cvttpd_epi32(__m512d a) {
  return _mm256_set_m128i(_mm256_cvttpd_epi32(split(a).half[1]),
                          _mm256_cvttpd_epi32(split(a).half[0]));
}
inline __m128i cvtsepi32_epi16(__m256i a) {
  return _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
}
inline __m512i cvtepi8_epi32(__m128i a) {
  return join(_mm256_cvtepi8_epi32(a), _mm256_cvtepi8_epi32(_mm_srli_si128(a, 8)));
}

// --- Lanes that change places
// ---------------------------------------------------------------------

// `part` counts in parts as large as b.
template <class Vector, class Part>
inline Vector insert(Vector a, const Part& b, int part) {
  check(part >= 0 && part < static_cast<int>(sizeof a / sizeof b), "no such part of a vector");
  std::memcpy(reinterpret_cast<char*>(&a) + part * sizeof b, &b, sizeof b);
  return a;
}
inline __m512 insertf32x4(__m512 a, __m128 b, int part) { return insert(a, b, part); }
inline __m512d insertf64x4(__m512d a, __m256d b, int part) { return insert(a, b, part); }
// Bit 3 of an index says of which of the two, the bits below it of which lane.
inline __m512d permutex2var_pd(__m512d a, __m512i index, __m512d b) {
  __m512d out = setzero_pd();
  for (int i = 0; i < 8; ++i) out[i] = (index[i] & 8) == 0 ? a[index[i] & 7] : b[index[i] & 7];
  return out;
}

}  // namespace emulated

#include "masks.h"

// Macros in some compilers' headers, or with some options.
#undef _mm512_cmp_ps_mask
#undef _mm512_cmp_pd_mask
#undef _mm512_cmple_epi32_mask
#undef _mm512_mask_cmpneq_epi32_mask
#undef _mm512_insertf32x4
#undef _mm512_insertf64x4
#undef _mm512_ternarylogic_epi32
#undef _mm512_setr_epi32
#undef _mm512_setr_epi64
#undef _mm512_slli_epi32
#undef _mm512_slli_epi64
#undef _mm512_srli_epi64

#define _mm512_add_epi32 emulated::add_epi32
#define _mm512_add_ps emulated::add_ps
#define _mm512_and_si512 emulated::and_si512
#define _mm512_castpd256_pd512 emulated::castpd256_pd512
#define _mm512_castpd_ps emulated::castpd_ps
#define _mm512_castps128_ps512 emulated::castps128_ps512
#define _mm512_castps_pd emulated::castps_pd
#define _mm512_castps_si512 emulated::castps_si512
#define _mm512_castsi512_ps emulated::castsi512_ps
#define _mm512_cmp_pd_mask emulated::cmp_pd_mask
#define _mm512_cmp_ps_mask emulated::cmp_ps_mask
#define _mm512_cmple_epi32_mask emulated::cmple_epi32_mask
#define _mm512_cvtepi32_ps emulated::cvtepi32_ps
#define _mm512_cvtepi8_epi32 emulated::cvtepi8_epi32
#define _mm512_cvtpd_ps emulated::cvtpd_ps
#define _mm512_cvtps_pd emulated::cvtps_pd
#define _mm512_cvttpd_epi32 emulated::cvttpd_epi32
#define _mm512_fmadd_pd emulated::fmadd_pd
#define _mm512_fmadd_ps emulated::fmadd_ps
#define _mm512_fnmadd_ps emulated::fnmadd_ps
#define _mm512_insertf32x4 emulated::insertf32x4
#define _mm512_insertf64x4 emulated::insertf64x4
#define _mm512_load_ps emulated::load_ps
#define _mm512_loadu_pd emulated::loadu_pd
#define _mm512_loadu_ps emulated::loadu_ps
#define _mm512_loadu_si512 emulated::loadu_si512
#define _mm512_madd_epi16 emulated::madd_epi16
#define _mm512_mask_cmpneq_epi32_mask emulated::mask_cmpneq_epi32_mask
#define _mm512_mask_mov_epi32 emulated::mask_mov_epi32
#define _mm512_maskz_compress_epi32 emulated::maskz_compress_epi32
#define _mm512_maskz_compress_ps emulated::maskz_compress_ps
#define _mm512_max_epi32 emulated::max_epi32
#define _mm512_max_pd emulated::max_pd
#define _mm512_max_ps emulated::max_ps
#define _mm512_min_epi32 emulated::min_epi32
#define _mm512_min_pd emulated::min_pd
#define _mm512_min_ps emulated::min_ps
#define _mm512_mul_epu32 emulated::mul_epu32
#define _mm512_mul_ps emulated::mul_ps
#define _mm512_permutex2var_pd emulated::permutex2var_pd
#define _mm512_reduce_min_epi32 emulated::reduce_min_epi32
#define _mm512_reduce_min_ps emulated::reduce_min_ps
#define _mm512_set1_epi32 emulated::set1_epi32
#define _mm512_set1_epi64 emulated::set1_epi64
#define _mm512_set1_pd emulated::set1_pd
#define _mm512_set1_ps emulated::set1_ps
#define _mm512_setr_epi32 emulated::setr_epi32
#define _mm512_setr_epi64 emulated::setr_epi64
#define _mm512_setzero_pd emulated::setzero_pd
#define _mm512_setzero_ps emulated::setzero_ps
#define _mm512_slli_epi32 emulated::slli_epi32
#define _mm512_slli_epi64 emulated::slli_epi64
#define _mm512_sra_epi32 emulated::sra_epi32
#define _mm512_srli_epi64 emulated::srli_epi64
#define _mm512_store_ps emulated::store_ps
#define _mm512_storeu_pd emulated::storeu_pd
#define _mm512_storeu_ps emulated::storeu_ps
#define _mm512_storeu_si512 emulated::storeu_si512
#define _mm512_sub_pd emulated::sub_pd
#define _mm512_sub_ps emulated::sub_ps
#define _mm512_ternarylogic_epi32 emulated::ternarylogic_epi32
#define _mm512_test_epi16_mask emulated::test_epi16_mask
#define _mm512_unpackhi_pd emulated::unpackhi_pd
#define _mm512_unpackhi_ps emulated::unpackhi_ps
#define _mm512_unpacklo_pd emulated::unpacklo_pd
#define _mm512_unpacklo_ps emulated::unpacklo_ps
#define _mm256_cvtsepi32_epi16 emulated::cvtsepi32_epi16

#include "tiles.h"
