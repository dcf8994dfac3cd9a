// AVX2 and FMA: 6 rows by 16 codes in 12 accumulators for the screen, 4 rows by 8 codes in 8 for
// fp64.
#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/nearest_code_kernels.h"

namespace vqgan_fast {
namespace {

constexpr int kTileRows = 6;
constexpr int kLanes = 8;

void screen(const float* z, int64_t dim, const float* panels, const float* half_norms,
            int64_t num_panels, int64_t first_code, RowScreen* const* rows) {
  __m256 limit[kTileRows];
  for (int r = 0; r < kTileRows; ++r) limit[r] = _mm256_set1_ps(rows[r]->limit);

  for (int64_t p = 0; p < num_panels; ++p) {
    const float* panel = panels + p * dim * kPanelCodes;
    __m256 low[kTileRows];   // codes 0 to 7 of the panel
    __m256 high[kTileRows];  // codes 8 to 15
    const __m256 half_norm_low = _mm256_loadu_ps(half_norms + p * kPanelCodes);
    const __m256 half_norm_high = _mm256_loadu_ps(half_norms + p * kPanelCodes + kLanes);
#pragma GCC unroll 6
    for (int r = 0; r < kTileRows; ++r) {
      low[r] = half_norm_low;
      high[r] = half_norm_high;
    }
    for (int64_t d = 0; d < dim; ++d) {
      const __m256 e_low = _mm256_loadu_ps(panel + d * kPanelCodes);
      const __m256 e_high = _mm256_loadu_ps(panel + d * kPanelCodes + kLanes);
#pragma GCC unroll 6
      for (int r = 0; r < kTileRows; ++r) {
        const __m256 x = _mm256_broadcast_ss(z + d * kTileRows + r);
        low[r] = _mm256_fnmadd_ps(x, e_low, low[r]);
        high[r] = _mm256_fnmadd_ps(x, e_high, high[r]);
      }
    }
    // Most panels have nothing to say for any row: one test for all of them.
    __m256 any = _mm256_setzero_ps();
#pragma GCC unroll 6
    for (int r = 0; r < kTileRows; ++r) {
      const __m256 smaller = _mm256_min_ps(low[r], high[r]);
      any = _mm256_or_ps(any, _mm256_cmp_ps(smaller, limit[r], _CMP_LE_OQ));
    }
    if (_mm256_movemask_ps(any) == 0) continue;
    alignas(32) float scores[kTileRows][kPanelCodes];
#pragma GCC unroll 6
    for (int r = 0; r < kTileRows; ++r) {
      _mm256_store_ps(scores[r], low[r]);
      _mm256_store_ps(scores[r] + kLanes, high[r]);
    }
    for (int r = 0; r < kTileRows; ++r) {
      const __m256 smaller =
          _mm256_min_ps(_mm256_load_ps(scores[r]), _mm256_load_ps(scores[r] + kLanes));
      if (_mm256_movemask_ps(_mm256_cmp_ps(smaller, limit[r], _CMP_LE_OQ)) == 0) continue;
      keep_candidates(rows[r], scores[r], first_code + p * kPanelCodes);
      limit[r] = _mm256_set1_ps(rows[r]->limit);
    }
  }
}

void pair_distances(const double* const* z, const double* const* e, int64_t dim,
                    double* distances) {
  // Four chains, because each waits for its last sum.
  double acc0 = 0.0, acc1 = 0.0, acc2 = 0.0, acc3 = 0.0;
  for (int64_t d = 0; d < dim; ++d) {
    const double difference0 = z[0][d] - e[0][d];
    const double difference1 = z[1][d] - e[1][d];
    const double difference2 = z[2][d] - e[2][d];
    const double difference3 = z[3][d] - e[3][d];
    acc0 = __builtin_fma(difference0, difference0, acc0);
    acc1 = __builtin_fma(difference1, difference1, acc1);
    acc2 = __builtin_fma(difference2, difference2, acc2);
    acc3 = __builtin_fma(difference3, difference3, acc3);
  }
  distances[0] = acc0;
  distances[1] = acc1;
  distances[2] = acc2;
  distances[3] = acc3;
}

void block_distances(const double* const* z, const double* codes, int64_t dim, double* distances) {
  __m256d low[kDirectRows];
  __m256d high[kDirectRows];
#pragma GCC unroll 4
  for (int r = 0; r < kDirectRows; ++r) low[r] = high[r] = _mm256_setzero_pd();
  for (int64_t d = 0; d < dim; ++d) {
    const __m256d e_low = _mm256_loadu_pd(codes + d * kDirectCodes);
    const __m256d e_high = _mm256_loadu_pd(codes + d * kDirectCodes + 4);
#pragma GCC unroll 4
    for (int r = 0; r < kDirectRows; ++r) {
      const __m256d x = _mm256_broadcast_sd(z[r] + d);
      const __m256d difference_low = _mm256_sub_pd(x, e_low);
      const __m256d difference_high = _mm256_sub_pd(x, e_high);
      low[r] = _mm256_fmadd_pd(difference_low, difference_low, low[r]);
      high[r] = _mm256_fmadd_pd(difference_high, difference_high, high[r]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kDirectRows; ++r) {
    _mm256_storeu_pd(distances + r * kDirectCodes, low[r]);
    _mm256_storeu_pd(distances + r * kDirectCodes + 4, high[r]);
  }
}

}  // namespace

const NearestCodeKernels kNearestCodeAvx2 = {kTileRows, screen, pair_distances, block_distances};

}  // namespace vqgan_fast
