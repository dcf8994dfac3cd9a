// AVX-512: 16 lanes, 32 registers.
#include <immintrin.h>

#include "kernels/cpu/soft_assign_tiles.h"

namespace vqgan_fast {
namespace {

struct Avx512 : Fp32Vectors<64> {
  static Vector broadcast(float x) { return _mm512_set1_ps(x); }
  static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  static Vector max(Vector a, Vector b) { return _mm512_max_ps(a, b); }
  static void multiply_words(Words words, uint32_t factor, Words* high, Words* low) {
    const __m512i factors = _mm512_set1_epi64(factor);
    const __m512i both = bits_as<__m512i>(words);
    const __m512i even = _mm512_mul_epu32(both, factors);
    const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(both, 32), factors);
    *high = bits_as<Words>(_mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xaaaa, odd));
    *low = bits_as<Words>(_mm512_mask_mov_epi32(even, 0xaaaa, _mm512_slli_epi64(odd, 32)));
  }
};

struct Avx512Wide {
  static constexpr int kLanes = 8;
  using Scalar = double;
  using Noise = float;
  using Vector = __m512d;

  static Vector load(const double* p) { return _mm512_loadu_pd(p); }
  static Vector load(const float* p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
  static void store(double* p, Vector v) { _mm512_storeu_pd(p, v); }
  static void store_narrow(float* p, Vector v) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(v)); }
  static Vector broadcast(double x) { return _mm512_set1_pd(x); }
  static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_pd(a, b, c); }
  static Vector max(Vector a, Vector b) { return _mm512_max_pd(a, b); }
};

}  // namespace

const SoftAssignLoops<float> kSoftAssignAvx512 = kLoops<Avx512, Avx512Wide, 12, 2>;

}  // namespace vqgan_fast
