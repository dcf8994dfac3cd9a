#include "kernels/cpu/packed_linear_tiles.h"

namespace vqgan_fast {
namespace {

struct Avx512 {
  using Floats = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kTileRows = 12;  // by two vectors: 24 sums
  static constexpr int kFewRows = 4;

  static Floats zero() { return _mm512_setzero_ps(); }
  static Floats broadcast(const float* x) { return _mm512_set1_ps(*x); }
  static Floats load(const float* from) { return _mm512_load_ps(from); }
  static void store(float* to, Floats x) { _mm512_store_ps(to, x); }
  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

  static void load_weights(const float* from, Floats (&w)[2]) {
    for (int v = 0; v < 2; ++v) w[v] = _mm512_loadu_ps(from + v * kLanes);
  }
  static void load_weights(const uint16_t* from, Floats (&w)[2]) {
    const __m512i pairs = _mm512_loadu_si512(from);
    w[0] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    w[1] = _mm512_castsi512_ps(
        _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static void load_weights(const int8_t* from, Floats (&w)[2]) {
    for (int v = 0; v < 2; ++v) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + v * kLanes));
      w[v] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
    }
  }
};

}  // namespace

void packed_linear_avx512(const PackedLinearArgs& args, int64_t panel_begin, int64_t panel_end,
                          int64_t row_begin, int64_t row_end) {
  tile_any_panels<Avx512>(args, panel_begin, panel_end, row_begin, row_end);
}

}  // namespace vqgan_fast
