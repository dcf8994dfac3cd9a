#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/screen_boxes.h"
#include "kernels/cpu/screen_boxes_search.h"

namespace vqgan_fast {
namespace {

struct Avx512 {
  using Float = __m512;
  using Places = __m512i;
  static constexpr int kLanes = 16;

  static Places lanes() {
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  }
  static Float load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Float v) { _mm512_storeu_ps(p, v); }
  static Float broadcast(float x) { return _mm512_set1_ps(x); }
  static Float min(Float a, Float b) { return _mm512_min_ps(a, b); }
  static Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
  static Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
  static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static Float mul_add(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static float least(Float v) { return _mm512_reduce_min_ps(v); }
  static bool any_within(Float v, Float limit) {
    return _mm512_cmp_ps_mask(v, limit, _CMP_LE_OQ) != 0;
  }

  // Bounds are not negative: as integers they are ordered as they are as numbers.
  static Places no_places() { return _mm512_set1_epi32(INT32_MAX); }
  static Places nearer(Places least, Float bounds, int32_t first) {
    const Places place = _mm512_add_epi32(_mm512_set1_epi32(first), lanes());
    // bits 0..11 from place, the others from bounds
    const Places key = _mm512_ternarylogic_epi32(_mm512_castps_si512(bounds), place,
                                                 _mm512_set1_epi32(kPlaceMask), 0xD8);
    return _mm512_min_epi32(least, key);
  }
  static int32_t smallest(Places least) { return _mm512_reduce_min_epi32(least); }
  static Places without(Places least, int32_t place) {
    const __mmask16 others = _mm512_mask_cmpneq_epi32_mask(0xFFFF, least, _mm512_set1_epi32(place));
    return _mm512_mask_mov_epi32(no_places(), others, least);
  }

  static constexpr bool kHasSieve = true;
  using Ints = __m512i;
  static Ints load_ints(const void* p) { return _mm512_loadu_si512(p); }
  static void store_ints(int32_t* p, Ints v) { _mm512_storeu_si512(p, v); }
  static Ints broadcast_int(int32_t x) { return _mm512_set1_epi32(x); }
  static Ints min_ints(Ints a, Ints b) { return _mm512_min_epi32(a, b); }
  static Ints add_products(Ints sum, Ints a, Ints b) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
  }
  static bool any_at_most(Ints v, Ints limit) { return _mm512_cmple_epi32_mask(v, limit) != 0; }

  // A compressing store to memory is microcoded on some CPUs: compressed in a register, all lanes
  // are stored.
  static int keep(Float scores, Float limit, int32_t first, float* kept, int32_t* places) {
    const __mmask16 mask = _mm512_cmp_ps_mask(scores, limit, _CMP_LE_OQ);
    const Places place = _mm512_add_epi32(_mm512_set1_epi32(first), lanes());
    _mm512_storeu_ps(kept, _mm512_maskz_compress_ps(mask, scores));
    _mm512_storeu_si512(places, _mm512_maskz_compress_epi32(mask, place));
    return __builtin_popcount(mask);
  }
};

}  // namespace

ScreenBoxesFn screen_boxes_avx512(int padded_dim) { return kernel_for<Avx512>(padded_dim); }

}  // namespace vqgan_fast
