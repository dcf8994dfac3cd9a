#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/screen_boxes.h"
#include "kernels/cpu/screen_boxes_search.h"

namespace vqgan_fast {
namespace {

// lanes[mask]: the set bits of the mask, in order, one in each byte.
struct SetLanes {
  uint64_t lanes[256];
  constexpr SetLanes() : lanes() {
    for (int mask = 0; mask < 256; ++mask) {
      int found = 0;
      for (uint64_t lane = 0; lane < 8; ++lane) {
        if (mask >> lane & 1) lanes[mask] |= lane << (8 * found++);
      }
    }
  }
};
constexpr SetLanes kSetLanes;

__m256i set_lanes(int mask) {
  return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kSetLanes.lanes[mask])));
}

struct Avx2 {
  using Float = __m256;
  using Places = __m256i;
  static constexpr int kLanes = 8;

  static Float load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Float v) { _mm256_storeu_ps(p, v); }
  static Float broadcast(float x) { return _mm256_set1_ps(x); }
  static Float min(Float a, Float b) { return _mm256_min_ps(a, b); }
  static Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
  static Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
  static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static Float mul_add(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static float least(Float v) {
    __m128 m = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_min_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_min_ss(m, _mm_movehdup_ps(m)));
  }
  static int within(Float v, Float limit) {
    return _mm256_movemask_ps(_mm256_cmp_ps(v, limit, _CMP_LE_OQ));
  }
  static bool any_within(Float v, Float limit) { return within(v, limit) != 0; }

  // Bounds are not negative: as integers they are ordered as they are as numbers.
  static Places no_places() { return _mm256_set1_epi32(INT32_MAX); }
  static Places nearer(Places least, Float bounds, int32_t first) {
    const Places place =
        _mm256_add_epi32(_mm256_set1_epi32(first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    const Places key = _mm256_or_si256(
        _mm256_and_si256(_mm256_castps_si256(bounds), _mm256_set1_epi32(~kPlaceMask)), place);
    return _mm256_min_epi32(least, key);
  }
  static int32_t smallest(Places least) {
    __m128i m = _mm_min_epi32(_mm256_castsi256_si128(least), _mm256_extracti128_si256(least, 1));
    m = _mm_min_epi32(m, _mm_shuffle_epi32(m, 0x4E));
    m = _mm_min_epi32(m, _mm_shuffle_epi32(m, 0xB1));
    return _mm_cvtsi128_si32(m);
  }
  static Places without(Places least, int32_t place) {
    const __m256i mask = _mm256_cmpeq_epi32(least, _mm256_set1_epi32(place));
    return _mm256_blendv_epi8(least, no_places(), mask);
  }

  static constexpr bool kHasSieve = true;
  using Ints = __m256i;
  static Ints load_ints(const void* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static void store_ints(int32_t* p, Ints v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  }
  static Ints broadcast_int(int32_t x) { return _mm256_set1_epi32(x); }
  static Ints min_ints(Ints a, Ints b) { return _mm256_min_epi32(a, b); }
  static Ints add_products(Ints sum, Ints a, Ints b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
  }
  static bool any_at_most(Ints v, Ints limit) {
    return _mm256_movemask_epi8(_mm256_cmpgt_epi32(v, limit)) != -1;
  }

  static int keep(Float scores, Float limit, int32_t first, float* kept, int32_t* places) {
    const int mask = within(scores, limit);
    const __m256i lanes = set_lanes(mask);
    _mm256_storeu_ps(kept, _mm256_permutevar8x32_ps(scores, lanes));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(places),
                        _mm256_add_epi32(lanes, _mm256_set1_epi32(first)));
    return __builtin_popcount(mask);
  }
};

}  // namespace

ScreenBoxesFn screen_boxes_avx2(int padded_dim) { return kernel_for<Avx2>(padded_dim); }

}  // namespace vqgan_fast
