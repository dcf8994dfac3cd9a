// Packing eight codes with AVX2, for the levels that have it. In an anonymous namespace as
// screen_fp32_tiles.h.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/screen_fp32_tiles.h"

namespace vqgan_fast {
namespace {

// Four dimensions of eight codes, turned so that the codes lie in lanes.
inline void turn(const __m128* code, __m256* lanes) {
  __m256 pair[4];  // codes i and i + 4
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    pair[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(code[i]), code[i + 4], 1);
  }
  const __m256 low01 = _mm256_unpacklo_ps(pair[0], pair[1]);
  const __m256 low23 = _mm256_unpacklo_ps(pair[2], pair[3]);
  const __m256 high01 = _mm256_unpackhi_ps(pair[0], pair[1]);
  const __m256 high23 = _mm256_unpackhi_ps(pair[2], pair[3]);
  lanes[0] = _mm256_shuffle_ps(low01, low23, _MM_SHUFFLE(1, 0, 1, 0));
  lanes[1] = _mm256_shuffle_ps(low01, low23, _MM_SHUFFLE(3, 2, 3, 2));
  lanes[2] = _mm256_shuffle_ps(high01, high23, _MM_SHUFFLE(1, 0, 1, 0));
  lanes[3] = _mm256_shuffle_ps(high01, high23, _MM_SHUFFLE(3, 2, 3, 2));
}

inline void pack_eight(const double* codes, int64_t dim, const double* centre, double scale,
                       int64_t panel_codes, float* out, double* norm2, float* max_abs) {
  const __m256d scales = _mm256_set1_pd(scale);
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 largest = _mm256_setzero_ps();
  __m256d norm2_low = _mm256_setzero_pd();
  __m256d norm2_high = _mm256_setzero_pd();
  const auto take = [&](__m256 y, int64_t d) {
    _mm256_storeu_ps(out + d * panel_codes, y);
    largest = _mm256_max_ps(_mm256_andnot_ps(sign, y), largest);  // a NaN is passed over
    const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(y));
    const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(y, 1));
    norm2_low = _mm256_fmadd_pd(low, low, norm2_low);
    norm2_high = _mm256_fmadd_pd(high, high, norm2_high);
  };
  int64_t d = 0;
  for (; d + 4 <= dim; d += 4) {
    const __m256d c = _mm256_loadu_pd(centre + d);
    __m128 code[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const __m256d centred = _mm256_sub_pd(_mm256_loadu_pd(codes + i * dim + d), c);
      code[i] = _mm256_cvtpd_ps(_mm256_mul_pd(centred, scales));
    }
    __m256 lanes[4];
    turn(code, lanes);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) take(lanes[i], d + i);
  }
  for (; d < dim; ++d) {
    alignas(32) float y[8];
    for (int i = 0; i < 8; ++i) y[i] = static_cast<float>((codes[i * dim + d] - centre[d]) * scale);
    take(_mm256_load_ps(y), d);
  }
  _mm256_storeu_pd(norm2, norm2_low);
  _mm256_storeu_pd(norm2 + 4, norm2_high);
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, largest);
  for (const float lane : lanes) *max_abs = std::max(*max_abs, lane);
}

template <class Simd>
void pack_by_eight(const double* codes, int64_t num_codes, int64_t dim, const double* centre,
                   double scale, int64_t panel_codes, float* out, double* norm2, float* max_abs) {
  if (num_codes < Simd::kLanes) {
    return pack<Simd>(codes, num_codes, dim, centre, scale, panel_codes, out, norm2, max_abs);
  }
  *max_abs = 0.0f;
  for (int i = 0; i < Simd::kLanes; i += 8) {
    pack_eight(codes + i * dim, dim, centre, scale, panel_codes, out + i, norm2 + i, max_abs);
  }
}

}  // namespace
}  // namespace vqgan_fast
