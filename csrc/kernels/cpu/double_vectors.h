// Elements of any type as vectors of doubles, by the level's own conversions, which compilers would
// put together from halves. What includes this is compiled once for each SIMD level with its own
// flags, so everything is in an anonymous namespace.
#pragma once

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include <cstdint>
#include <utility>

#include "kernels/cpu/element.h"

namespace vqgan_fast {
namespace {

template <int64_t kLanes>
struct DoublesOf {
  typedef double Type __attribute__((vector_size(kLanes * 8), aligned(8), may_alias));
};
template <int64_t kLanes>
using Doubles = typename DoublesOf<kLanes>::Type;

// kLanes elements as doubles, and back.
template <class E, int64_t kLanes>
struct Vector {
  static Doubles<kLanes> load(const typename E::Storage* from) {
    Doubles<kLanes> x;
    for (int64_t i = 0; i < kLanes; ++i) x[i] = E::load(from[i]);
    return x;
  }
  static void store(const Doubles<kLanes>& x, typename E::Storage* to) {
    for (int64_t i = 0; i < kLanes; ++i) to[i] = E::store(x[i]);
  }
};

template <int64_t kLanes>
struct Vector<Fp64, kLanes> {
  static Doubles<kLanes> load(const double* from) {
    return *reinterpret_cast<const Doubles<kLanes>*>(from);
  }
  static void store(const Doubles<kLanes>& x, double* to) {
    *reinterpret_cast<Doubles<kLanes>*>(to) = x;
  }
};

#ifndef __AVX2__
template <>
struct Vector<Fp32, 2> {
  typedef float Floats __attribute__((vector_size(8), aligned(4), may_alias));
  static Doubles<2> load(const float* from) {
    return __builtin_convertvector(*reinterpret_cast<const Floats*>(from), Doubles<2>);
  }
  static void store(const Doubles<2>& x, float* to) {
    *reinterpret_cast<Floats*>(to) = __builtin_convertvector(x, Floats);
  }
};
#else
template <>
struct Vector<Fp32, 4> {
  static Doubles<4> load(const float* from) { return _mm256_cvtps_pd(_mm_loadu_ps(from)); }
  static void store(const Doubles<4>& x, float* to) { _mm_storeu_ps(to, _mm256_cvtpd_ps(x)); }
};

template <>
struct Vector<Bf16, 4> {
  static Doubles<4> load(const uint16_t* from) {
    const __m128i x = _mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
    return _mm256_cvtps_pd(_mm_castsi128_ps(_mm_slli_epi32(x, 16)));
  }
  static void store(const Doubles<4>& x, uint16_t* to) {
    for (int64_t i = 0; i < 4; ++i) to[i] = Bf16::store(x[i]);
  }
};

template <>
struct Vector<Fp16, 4> {
  static Doubles<4> load(const uint16_t* from) {
    return _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
  }
  static void store(const Doubles<4>& x, uint16_t* to) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to),
                     _mm_cvtps_ph(_mm256_cvtpd_ps(x), _MM_FROUND_TO_NEAREST_INT));
  }
};
#endif

// Of two vectors, those halves of each 2 kStep lanes that are first (kHigh = 0) or second (1): the
// first vector's, then the second's.
template <int64_t kLanes, int64_t kStep, int64_t kHigh, int... kLane>
Doubles<kLanes> halves(const Doubles<kLanes>& a, const Doubles<kLanes>& b,
                       std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(
      a, b,
      ((kLane & kStep) == 0 ? kLane + kHigh * kStep : kLane - kStep + kHigh * kStep + kLanes)...);
}

// Squares of 2 kStep lanes have their upper right and lower left quarters exchanged; with those of
// kStep = 1, 2, .. one behind the other, rows are columns.
template <int64_t kLanes, int64_t kStep = 1>
inline __attribute__((always_inline)) void turn_square(Doubles<kLanes> (&a)[kLanes]) {
  if constexpr (kStep < kLanes) {
    constexpr auto lanes = std::make_integer_sequence<int, kLanes>();
    for (int64_t i = 0; i < kLanes; ++i) {
      if ((i & kStep) != 0) continue;
      const Doubles<kLanes> first = a[i], second = a[i + kStep];
      a[i] = halves<kLanes, kStep, 0>(first, second, lanes);
      a[i + kStep] = halves<kLanes, kStep, 1>(first, second, lanes);
    }
    turn_square<kLanes, 2 * kStep>(a);
  }
}

}  // namespace
}  // namespace vqgan_fast
