#include "kernels/cpu/packed_linear_tiles.h"

namespace vqgan_fast {
namespace {

struct Avx2 {
  using Floats = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kTileRows = kTileRowsAvx2;
  // Of 16 registers, sums take at most 12. A second stream is worth more passes only where weights
  // need no conversion and there are few rows.
  static constexpr int stream_panels(int rows, int bytes) {
    return rows == 1 || (bytes == 4 && rows <= 4) ? 2 : 1;
  }
  static constexpr int stream_parts(int rows, int bytes) {
    const int vectors = 4 * rows * stream_panels(rows, bytes);
    return vectors <= 8 ? 1 : vectors <= 24 ? 2 : 4;
  }

  static Floats zero() { return _mm256_setzero_ps(); }
  static Floats broadcast(const float* x) { return _mm256_broadcast_ss(x); }
  static Floats load(const float* from) { return _mm256_load_ps(from); }
  static Floats load_unaligned(const float* from) { return _mm256_loadu_ps(from); }
  static void store(float* to, Floats x) { _mm256_store_ps(to, x); }
  static Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

  // Of a panel's four vectors those with numbers part, part + kParts, ...
  template <int kParts>
  static void load_weights(const float* from, int part, Floats (&w)[4 / kParts]) {
    for (int v = 0; v < 4 / kParts; ++v) {
      w[v] = _mm256_loadu_ps(from + (v * kParts + part) * kLanes);
    }
  }
  template <int kParts>
  static void load_weights(const uint16_t* from, int part, Floats (&w)[4 / kParts]) {
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    for (int v = 0; v < 2 / kParts; ++v) {
      const __m256i pairs =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from) + v * kParts + part);
      w[v] = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
      w[v + 2 / kParts] = _mm256_castsi256_ps(_mm256_and_si256(pairs, high));
    }
  }
  template <int kParts>
  static void load_weights(const int8_t* from, int part, Floats (&w)[4 / kParts]) {
    for (int v = 0; v < 4 / kParts; ++v) {
      const int8_t* bytes = from + (v * kParts + part) * kLanes;
      w[v] = _mm256_cvtepi32_ps(
          _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes))));
    }
  }
};

}  // namespace

void packed_linear_avx2(const PackedLinearArgs& args, const float* tiled, int64_t panel_begin,
                        int64_t panel_end) {
  any_weights<Avx2>(args, tiled, panel_begin, panel_end);
}

}  // namespace vqgan_fast
