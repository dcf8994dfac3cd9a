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

}  // namespace

const SoftAssignLoops<float> kSoftAssignAvx512 = kLoops<Avx512, 12, 2>;

}  // namespace vqgan_fast
