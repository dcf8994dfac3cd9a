// AVX-512: 8 rows by 2 vectors of codes. A broadcast element of a row serves both, so that there
// are fewer loads than steps.

// GCC 12 takes its own intrinsics' undefined vectors for a mistake (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/code_distances_tile.h"
#include "kernels/cpu/code_distances_x86.h"

namespace vqgan_fast {
namespace {

struct Fp32 {
  using Scalar = float;
  using Vector = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kVectors = 2;
  static constexpr int kTileRows = 8;

  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
  static Vector broadcast(const float* p) { return _mm512_set1_ps(*p); }
  static Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(b, a); }
  static Vector add_square(Vector x, Vector acc) { return _mm512_fmadd_ps(x, x, acc); }
  static Vector lesser(Vector a, Vector b) { return _mm512_min_ps(a, b); }
  static unsigned not_above(Vector a, Vector limit) {
    return _mm512_cmp_ps_mask(a, limit, _CMP_NGT_UQ);
  }
  static unsigned either(unsigned a, unsigned b) { return a | b; }
  static bool is_any(unsigned mask) { return mask != 0; }

  template <class Read>
  static Vector load_four(const typename Read::Element* const* e, int64_t d) {
    const Vector first = _mm512_castps128_ps512(Read::four_fp32(e[0] + d));
    const Vector second = _mm512_insertf32x4(first, Read::four_fp32(e[4] + d), 1);
    const Vector third = _mm512_insertf32x4(second, Read::four_fp32(e[8] + d), 2);
    return _mm512_insertf32x4(third, Read::four_fp32(e[12] + d), 3);
  }

  template <class Read>
  static void load_columns(const typename Read::Element* const* e, int64_t d, Vector* column) {
    const Vector code0 = load_four<Read>(e, d);
    const Vector code1 = load_four<Read>(e + 1, d);
    const Vector code2 = load_four<Read>(e + 2, d);
    const Vector code3 = load_four<Read>(e + 3, d);
    const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(code0, code1));
    const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(code0, code1));
    const __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(code2, code3));
    const __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(code2, code3));
    column[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23));
    column[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23));
    column[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23));
    column[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23));
  }
};

struct Fp64 {
  using Scalar = double;
  using Vector = __m512d;
  static constexpr int kLanes = 8;
  static constexpr int kVectors = 2;
  static constexpr int kTileRows = 8;

  static Vector zero() { return _mm512_setzero_pd(); }
  static Vector load(const double* p) { return _mm512_loadu_pd(p); }
  static void store(double* p, Vector v) { _mm512_storeu_pd(p, v); }
  static Vector broadcast(const double* p) { return _mm512_set1_pd(*p); }
  static Vector subtract(Vector a, Vector b) { return _mm512_sub_pd(b, a); }
  static Vector add_square(Vector x, Vector acc) { return _mm512_fmadd_pd(x, x, acc); }
  static Vector lesser(Vector a, Vector b) { return _mm512_min_pd(a, b); }
  static unsigned not_above(Vector a, Vector limit) {
    return _mm512_cmp_pd_mask(a, limit, _CMP_NGT_UQ);
  }
  static unsigned either(unsigned a, unsigned b) { return a | b; }
  static bool is_any(unsigned mask) { return mask != 0; }

  template <class Read>
  static Vector load_pair(const typename Read::Element* low, const typename Read::Element* high) {
    return _mm512_insertf64x4(_mm512_castpd256_pd512(Read::four_fp64(low)), Read::four_fp64(high),
                              1);
  }

  template <class Read>
  static void load_columns(const typename Read::Element* const* e, int64_t d, Vector* column) {
    const Vector code0 = load_pair<Read>(e[0] + d, e[4] + d);
    const Vector code1 = load_pair<Read>(e[1] + d, e[5] + d);
    const Vector code2 = load_pair<Read>(e[2] + d, e[6] + d);
    const Vector code3 = load_pair<Read>(e[3] + d, e[7] + d);
    const Vector even01 = _mm512_unpacklo_pd(code0, code1);
    const Vector odd01 = _mm512_unpackhi_pd(code0, code1);
    const Vector even23 = _mm512_unpacklo_pd(code2, code3);
    const Vector odd23 = _mm512_unpackhi_pd(code2, code3);
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    const __m512i high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    column[0] = _mm512_permutex2var_pd(even01, low, even23);
    column[1] = _mm512_permutex2var_pd(odd01, low, odd23);
    column[2] = _mm512_permutex2var_pd(even01, high, even23);
    column[3] = _mm512_permutex2var_pd(odd01, high, odd23);
  }
};

}  // namespace

constexpr CodeDistanceKernels kCodeDistancesAvx512 = x86_kernels<Fp32, Fp64>();

}  // namespace vqgan_fast
