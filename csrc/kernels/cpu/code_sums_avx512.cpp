#include <immintrin.h>

#include "kernels/cpu/code_sums_generic.h"
#include "kernels/cpu/double_vectors_avx512.h"

namespace vqgan_fast {
namespace {

// 4 elements as floats, and 4 others behind them.
template <class E>
__m256 load_quads(const uint16_t* first, const uint16_t* second) {
  const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(first));
  const __m128i high = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(second));
  const __m128i both = _mm_unpacklo_epi64(low, high);
  if constexpr (E::kType == DType::kFloat16) {
    return _mm256_cvtph_ps(both);
  } else {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(both), 16));
  }
}

template <class E>
__m256 load_quads(const float* first, const float* second) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(first)), _mm_loadu_ps(second), 1);
}

// 8 rows of 8 columns of what floats hold: turned before they are doubles they are half as wide,
// and the halves of a register change places as they are loaded.
template <class E>
class FloatSquare {
 public:
  FloatSquare(const typename E::Storage* z, int64_t column_stride) {
    constexpr int kFirstPairs = 0x44, kSecondPairs = 0xee;
    for (int64_t first = 0; first < 8; first += 4) {
      __m256 columns[4];
      for (int64_t c = 0; c < 4; ++c) {
        const auto* column = z + c * column_stride + first;
        columns[c] = load_quads<E>(column, column + 4 * column_stride);
      }
      const __m256 low_01 = _mm256_unpacklo_ps(columns[0], columns[1]);
      const __m256 low_23 = _mm256_unpacklo_ps(columns[2], columns[3]);
      const __m256 high_01 = _mm256_unpackhi_ps(columns[0], columns[1]);
      const __m256 high_23 = _mm256_unpackhi_ps(columns[2], columns[3]);
      rows_[first] = _mm256_shuffle_ps(low_01, low_23, kFirstPairs);
      rows_[first + 1] = _mm256_shuffle_ps(low_01, low_23, kSecondPairs);
      rows_[first + 2] = _mm256_shuffle_ps(high_01, high_23, kFirstPairs);
      rows_[first + 3] = _mm256_shuffle_ps(high_01, high_23, kSecondPairs);
    }
  }

  Doubles<8> part(int64_t row, int64_t) const { return _mm512_cvtps_pd(rows_[row]); }

 private:
  __m256 rows_[8];
};

template <>
class Square<Fp32, 8, 1> : public FloatSquare<Fp32> {
  using FloatSquare::FloatSquare;
};

template <>
class Square<Bf16, 8, 1> : public FloatSquare<Bf16> {
  using FloatSquare::FloatSquare;
};

template <>
class Square<Fp16, 8, 1> : public FloatSquare<Fp16> {
  using FloatSquare::FloatSquare;
};

}  // namespace

const CodeSums kCodeSumsAvx512 = make_sums<8>();

}  // namespace vqgan_fast
