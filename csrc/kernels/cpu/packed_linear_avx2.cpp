#include "kernels/cpu/packed_linear_tiles.h"

namespace vqgan_fast {
namespace {

struct Avx2 {
  using Floats = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kTileRows = 6;  // by two vectors: 12 sums
  static constexpr int kFewRows = 3;   // by four

  static Floats zero() { return _mm256_setzero_ps(); }
  static Floats broadcast(const float* x) { return _mm256_broadcast_ss(x); }
  static Floats load(const float* from) { return _mm256_load_ps(from); }
  static void store(float* to, Floats x) { _mm256_store_ps(to, x); }
  static Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

  template <int kVectors>
  static void load_weights(const float* from, Floats (&w)[kVectors]) {
    for (int v = 0; v < kVectors; ++v) w[v] = _mm256_loadu_ps(from + v * kLanes);
  }
  static void load_weights(const uint16_t* from, Floats (&w)[4]) {
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    for (int v = 0; v < 2; ++v) {
      const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from) + v);
      w[v] = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
      w[v + 2] = _mm256_castsi256_ps(_mm256_and_si256(pairs, high));
    }
  }
  static void load_weights(const int8_t* from, Floats (&w)[4]) {
    for (int v = 0; v < 4; ++v) {
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + v * kLanes));
      w[v] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    }
  }
};

}  // namespace

void packed_linear_avx2(const PackedLinearArgs& args, int64_t panel_begin, int64_t panel_end,
                        int64_t row_begin, int64_t row_end) {
  tile_any_panels<Avx2>(args, panel_begin, panel_end, row_begin, row_end);
}

}  // namespace vqgan_fast
