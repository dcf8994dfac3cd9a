// AVX2 and FMA: 8 lanes, 16 registers.
#include <immintrin.h>

#include "kernels/cpu/soft_assign_tiles.h"

namespace vqgan_fast {
namespace {

struct Avx2 : Fp32Vectors<32> {
  static Vector broadcast(float x) { return _mm256_set1_ps(x); }
  static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  static Vector max(Vector a, Vector b) { return _mm256_max_ps(a, b); }
  static void multiply_words(Words words, uint32_t factor, Words* high, Words* low) {
    const __m256i factors = _mm256_set1_epi64x(factor);
    const __m256i both = bits_as<__m256i>(words);
    const __m256i even = _mm256_mul_epu32(both, factors);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(both, 32), factors);
    *high = bits_as<Words>(_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa));
    *low = bits_as<Words>(_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa));
  }
};

struct Avx2Wide {
  static constexpr int kLanes = 4;
  using Scalar = double;
  using Noise = float;
  using Vector = __m256d;

  static Vector load(const double* p) { return _mm256_loadu_pd(p); }
  static Vector load(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
  static void store(double* p, Vector v) { _mm256_storeu_pd(p, v); }
  static void store_narrow(float* p, Vector v) { _mm_storeu_ps(p, _mm256_cvtpd_ps(v)); }
  static Vector broadcast(double x) { return _mm256_set1_pd(x); }
  static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_pd(a, b, c); }
  static Vector max(Vector a, Vector b) { return _mm256_max_pd(a, b); }
};

}  // namespace

const SoftAssignLoops<float> kSoftAssignAvx2 = kLoops<Avx2, Avx2Wide, 6, 2>;

}  // namespace vqgan_fast
