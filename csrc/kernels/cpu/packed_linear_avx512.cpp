#include "kernels/cpu/packed_linear_tiles.h"

namespace vqgan_fast {
namespace {

struct Avx512 {
  using Floats = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kTileRows = kTileRowsAvx512;
  // Of 32 registers, sums take at most 24.
  static constexpr int stream_panels(int rows, int) { return rows <= 6 ? 2 : 1; }
  static constexpr int stream_parts(int, int) { return 1; }

  static Floats zero() { return _mm512_setzero_ps(); }
  static Floats broadcast(const float* x) { return _mm512_set1_ps(*x); }
  static Floats load(const float* from) { return _mm512_load_ps(from); }
  static Floats load_unaligned(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Floats x) { _mm512_store_ps(to, x); }
  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

  // All of a panel: there is one part.
  template <int>
  static void load_weights(const float* from, int, Floats (&w)[2]) {
    for (int v = 0; v < 2; ++v) w[v] = _mm512_loadu_ps(from + v * kLanes);
  }
  template <int>
  static void load_weights(const uint16_t* from, int, Floats (&w)[2]) {
    const __m512i pairs = _mm512_loadu_si512(from);
    w[0] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    w[1] = _mm512_castsi512_ps(
        _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  template <int>
  static void load_weights(const int8_t* from, int, Floats (&w)[2]) {
    for (int v = 0; v < 2; ++v) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + v * kLanes));
      w[v] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
    }
  }
};

}  // namespace

void packed_linear_avx512(const PackedLinearArgs& args, const float* tiled, int64_t panel_begin,
                          int64_t panel_end) {
  any_weights<Avx512>(args, tiled, panel_begin, panel_end);
}

}  // namespace vqgan_fast
