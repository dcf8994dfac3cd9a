// The conversions of double_vectors.h in registers of AVX-512.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/double_vectors.h"

namespace vqgan_fast {
namespace {

template <>
struct Vector<Fp32, 8> {
  static Doubles<8> load(const float* from) { return _mm512_cvtps_pd(_mm256_loadu_ps(from)); }
  static void store(const Doubles<8>& x, float* to) { _mm256_storeu_ps(to, _mm512_cvtpd_ps(x)); }
};

template <>
struct Vector<Bf16, 8> {
  static Doubles<8> load(const uint16_t* from) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm512_cvtps_pd(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)));
  }
  static void store(const Doubles<8>& x, uint16_t* to) {
    for (int64_t i = 0; i < 8; ++i) to[i] = Bf16::store(x[i]);
  }
};

template <>
struct Vector<Fp16, 8> {
  static Doubles<8> load(const uint16_t* from) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm512_cvtps_pd(_mm256_cvtph_ps(x));
  }
  static void store(const Doubles<8>& x, uint16_t* to) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm256_cvtps_ph(_mm512_cvtpd_ps(x), _MM_FROUND_TO_NEAREST_INT));
  }
};

}  // namespace
}  // namespace vqgan_fast
