// AVX2 and FMA: 8 lanes, 16 registers.
#include <immintrin.h>

#include "kernels/cpu/screen_fp32_pack_avx2.h"
#include "kernels/cpu/screen_fp32_tiles.h"

namespace vqgan_fast {
namespace {

struct Avx2 {
  static constexpr int kLanes = 8;
  using Vector = __m256;
  using Index = __m256i;

  static Vector load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
  static Vector broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  static Index load_index(const float* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static void store_index(float* p, Index v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  }
  static Index broadcast_index(int32_t i) { return _mm256_set1_epi32(i); }
  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  static Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
  static Vector multiply_subtract(Vector a, Vector b, Vector c) {
    return _mm256_fnmadd_ps(a, b, c);
  }
  static Vector min(Vector a, Vector b) { return _mm256_min_ps(a, b); }
  static Vector max(Vector a, Vector b) { return _mm256_max_ps(a, b); }
  // Panels come in ascending order, so that the later one is the greater: no blend is needed.
  static Index replace(Index index, Vector a, Vector b, Index panel) {
    const Index smaller = _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LT_OQ));
    return _mm256_max_epi32(index, _mm256_and_si256(smaller, panel));
  }
  static float lowest(Vector v) {
    __m128 half = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_min_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_min_ss(half, _mm_movehdup_ps(half)));
  }
  static unsigned at_most(Vector v, Vector limit) {
    return _mm256_movemask_ps(_mm256_cmp_ps(v, limit, _CMP_LE_OQ));
  }
};

// A wide panel keeps the upkeep of the states small beside short products; a narrow one leaves
// fewer codes to measure.
const ScreenFp32Kernel* kernel(int64_t, int64_t dim) {
  switch (dim) {
    case 1:
      return &kKernel<Avx2, Order::kVectors, 3, 8, 1>;
    case 2:
      return &kKernel<Avx2, Order::kVectors, 3, 8, 2>;
    case 3:
      return &kKernel<Avx2, Order::kVectors, 3, 8, 3>;
    case 4:
      return &kKernel<Avx2, Order::kVectors, 3, 8, 4>;
    case 5:
      return &kKernel<Avx2, Order::kDims, 3, 4, 5>;
    case 6:
      return &kKernel<Avx2, Order::kDims, 3, 4, 6>;
    case 7:
      return &kKernel<Avx2, Order::kDims, 3, 4, 7>;
    case 8:
      return &kKernel<Avx2, Order::kDims, 3, 4, 8>;
    default:
      break;
  }
  if (dim <= 64) return &kKernel<Avx2, Order::kDims, 4, 3, 0>;
  return &kKernel<Avx2, Order::kDims, 6, 2, 0>;
}

}  // namespace

const ScreenFp32Level kScreenFp32Avx2 = {kernel, prepare<Avx2>, pack_by_eight<Avx2>};

}  // namespace vqgan_fast
