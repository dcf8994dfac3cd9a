// AVX-512: 16 lanes, 32 registers.
#include <immintrin.h>

#include "kernels/cpu/screen_fp32_pack_avx2.h"
#include "kernels/cpu/screen_fp32_tiles.h"

namespace vqgan_fast {
namespace {

struct Avx512 {
  static constexpr int kLanes = 16;
  using Vector = __m512;
  using Index = __m512i;

  static Vector load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
  static Vector broadcast(const float* p) { return _mm512_set1_ps(*p); }
  static Index load_index(const float* p) { return _mm512_loadu_si512(p); }
  static void store_index(float* p, Index v) { _mm512_storeu_si512(p, v); }
  static Index broadcast_index(int32_t i) { return _mm512_set1_epi32(i); }
  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  static Vector multiply_subtract(Vector a, Vector b, Vector c) {
    return _mm512_fnmadd_ps(a, b, c);
  }
  static Vector min(Vector a, Vector b) { return _mm512_min_ps(a, b); }
  static Vector max(Vector a, Vector b) { return _mm512_max_ps(a, b); }
  static Index replace(Index index, Vector a, Vector b, Index panel) {
    return _mm512_mask_mov_epi32(index, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), panel);
  }
  static float lowest(Vector v) { return _mm512_reduce_min_ps(v); }
  static unsigned at_most(Vector v, Vector limit) {
    return _mm512_cmp_ps_mask(v, limit, _CMP_LE_OQ);
  }
};

// A wide panel keeps the upkeep of the states small beside short products; a narrow one leaves
// fewer codes to measure, which counts where there are few.
const ScreenFp32Kernel* kernel(int64_t num_codes, int64_t dim) {
  const bool few = num_codes < 4096;
  switch (dim) {
    case 1:
      return &kKernel<Avx512, Order::kVectors, 6, 8, 1>;
    case 2:
      return &kKernel<Avx512, Order::kVectors, 6, 8, 2>;
    case 3:
      return few ? &kKernel<Avx512, Order::kVectors, 4, 4, 3>
                 : &kKernel<Avx512, Order::kVectors, 6, 8, 3>;
    case 4:
      return few ? &kKernel<Avx512, Order::kVectors, 4, 4, 4>
                 : &kKernel<Avx512, Order::kVectors, 4, 8, 4>;
    case 8:
      return &kKernel<Avx512, Order::kDims, 6, 4, 8>;
    default:
      break;
  }
  if (dim < 128) return &kKernel<Avx512, Order::kDims, 6, 4, 0>;
  return &kKernel<Avx512, Order::kDims, 8, 2, 0>;
}

}  // namespace

const ScreenFp32Level kScreenFp32Avx512 = {kernel, prepare<Avx512>, pack_by_eight<Avx512>};

}  // namespace vqgan_fast
