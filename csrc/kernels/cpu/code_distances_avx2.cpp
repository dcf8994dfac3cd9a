// AVX2 and FMA: 6 rows by two vectors of codes in 12 of the 16 registers.
#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/code_distances_tile.h"
#include "kernels/cpu/code_distances_x86.h"

namespace vqgan_fast {
namespace {

struct Fp32 {
  using Scalar = float;
  using Vector = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kVectors = 2;
  static constexpr int kTileRows = 6;

  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
  static Vector broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  static Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
  static Vector add_square(Vector x, Vector acc) { return _mm256_fmadd_ps(x, x, acc); }
  static Vector lesser(Vector a, Vector b) { return _mm256_min_ps(a, b); }
  static Vector not_above(Vector a, Vector limit) { return _mm256_cmp_ps(a, limit, _CMP_NGT_UQ); }
  static Vector either(Vector a, Vector b) { return _mm256_or_ps(a, b); }
  static bool is_any(Vector mask) { return _mm256_movemask_ps(mask) != 0; }

  template <class Read>
  static Vector load_pair(const typename Read::Element* low, const typename Read::Element* high) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(Read::four_fp32(low)), Read::four_fp32(high),
                                1);
  }

  template <class Read>
  static void load_columns(const typename Read::Element* const* e, int64_t d, Vector* column) {
    const Vector code0 = load_pair<Read>(e[0] + d, e[4] + d);
    const Vector code1 = load_pair<Read>(e[1] + d, e[5] + d);
    const Vector code2 = load_pair<Read>(e[2] + d, e[6] + d);
    const Vector code3 = load_pair<Read>(e[3] + d, e[7] + d);
    const __m256d low01 = _mm256_castps_pd(_mm256_unpacklo_ps(code0, code1));
    const __m256d high01 = _mm256_castps_pd(_mm256_unpackhi_ps(code0, code1));
    const __m256d low23 = _mm256_castps_pd(_mm256_unpacklo_ps(code2, code3));
    const __m256d high23 = _mm256_castps_pd(_mm256_unpackhi_ps(code2, code3));
    column[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23));
    column[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23));
    column[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23));
    column[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23));
  }
};

struct Fp64 {
  using Scalar = double;
  using Vector = __m256d;
  static constexpr int kLanes = 4;
  static constexpr int kVectors = 2;
  static constexpr int kTileRows = 6;

  static Vector zero() { return _mm256_setzero_pd(); }
  static Vector load(const double* p) { return _mm256_loadu_pd(p); }
  static void store(double* p, Vector v) { _mm256_storeu_pd(p, v); }
  static Vector broadcast(const double* p) { return _mm256_broadcast_sd(p); }
  static Vector subtract(Vector a, Vector b) { return _mm256_sub_pd(a, b); }
  static Vector add_square(Vector x, Vector acc) { return _mm256_fmadd_pd(x, x, acc); }
  static Vector lesser(Vector a, Vector b) { return _mm256_min_pd(a, b); }
  static Vector not_above(Vector a, Vector limit) { return _mm256_cmp_pd(a, limit, _CMP_NGT_UQ); }
  static Vector either(Vector a, Vector b) { return _mm256_or_pd(a, b); }
  static bool is_any(Vector mask) { return _mm256_movemask_pd(mask) != 0; }

  template <class Read>
  static void load_columns(const typename Read::Element* const* e, int64_t d, Vector* column) {
    const Vector code0 = Read::four_fp64(e[0] + d);
    const Vector code1 = Read::four_fp64(e[1] + d);
    const Vector code2 = Read::four_fp64(e[2] + d);
    const Vector code3 = Read::four_fp64(e[3] + d);
    const Vector even01 = _mm256_unpacklo_pd(code0, code1);
    const Vector odd01 = _mm256_unpackhi_pd(code0, code1);
    const Vector even23 = _mm256_unpacklo_pd(code2, code3);
    const Vector odd23 = _mm256_unpackhi_pd(code2, code3);
    column[0] = _mm256_permute2f128_pd(even01, even23, 0x20);
    column[1] = _mm256_permute2f128_pd(odd01, odd23, 0x20);
    column[2] = _mm256_permute2f128_pd(even01, even23, 0x31);
    column[3] = _mm256_permute2f128_pd(odd01, odd23, 0x31);
  }
};

}  // namespace

constexpr CodeDistanceKernels kCodeDistancesAvx2 = x86_kernels<Fp32, Fp64>();

}  // namespace vqgan_fast
