// Comparisons that give masks, and what masks choose of a vector: a part of
// tests/ops/avx512/immintrin.h, which has the vectors.
#pragma once

namespace emulated {

// For the predicates of the kernels, as AVX2 has them for halves.
template <int kPredicate>
inline __mmask16 compare(__m512 a, __m512 b) {
  const auto bits = [&](int i) {
    return _mm256_movemask_ps(_mm256_cmp_ps(split(a).half[i], split(b).half[i], kPredicate));
  };
  return static_cast<__mmask16>(bits(0) | bits(1) << 8);
}
template <int kPredicate>
inline __mmask8 compare(__m512d a, __m512d b) {
  const auto bits = [&](int i) {
    return _mm256_movemask_pd(_mm256_cmp_pd(split(a).half[i], split(b).half[i], kPredicate));
  };
  return static_cast<__mmask8>(bits(0) | bits(1) << 4);
}
template <class Vector>
inline auto compare(const Vector& a, const Vector& b, int predicate) {
  switch (predicate) {
    case _CMP_LT_OQ:
      return compare<_CMP_LT_OQ>(a, b);
    case _CMP_NGT_UQ:
      return compare<_CMP_NGT_UQ>(a, b);
    default:
      check(predicate == _CMP_LE_OQ, "a comparison that is not emulated");
      return compare<_CMP_LE_OQ>(a, b);
  }
}
inline __mmask16 cmp_ps_mask(__m512 a, __m512 b, int predicate) { return compare(a, b, predicate); }
inline __mmask8 cmp_pd_mask(__m512d a, __m512d b, int predicate) {
  return compare(a, b, predicate);
}

template <class Condition>
inline __mmask16 mask_of(const Condition& condition) {
  unsigned mask = 0;
  for (int i = 0; i < 16; ++i) mask |= static_cast<unsigned>(condition(i)) << i;
  return static_cast<__mmask16>(mask);
}
inline __mmask16 cmple_epi32_mask(__m512i a, __m512i b) {
  const auto x = lanes_of<int32_t>(a), y = lanes_of<int32_t>(b);
  return mask_of([&](int i) { return x.lane[i] <= y.lane[i]; });
}
inline __mmask16 mask_cmpneq_epi32_mask(__mmask16 mask, __m512i a, __m512i b) {
  const auto x = lanes_of<int32_t>(a), y = lanes_of<int32_t>(b);
  return mask & mask_of([&](int i) { return x.lane[i] != y.lane[i]; });
}
inline __m512i mask_mov_epi32(__m512i other, __mmask16 mask, __m512i a) {
  auto x = lanes_of<int32_t>(other);
  const auto y = lanes_of<int32_t>(a);
  for (int i = 0; i < 16; ++i) x.lane[i] = (mask >> i & 1) != 0 ? y.lane[i] : x.lane[i];
  return loadu_si512(x.lane);
}
inline __mmask32 test_epi16_mask(__m512i a, __m512i b) {
  const auto x = lanes_of<uint16_t>(a), y = lanes_of<uint16_t>(b);
  __mmask32 mask = 0;
  for (int i = 0; i < 32; ++i) mask |= __mmask32{(x.lane[i] & y.lane[i]) != 0} << i;
  return mask;
}
// The lanes of the mask, close together; zeros behind them.
inline __m512i maskz_compress_epi32(__mmask16 mask, __m512i a) {
  const auto x = lanes_of<int32_t>(a);
  int32_t out[16] = {};
  int count = 0;
  for (int i = 0; i < 16; ++i) {
    if ((mask >> i & 1) != 0) out[count++] = x.lane[i];
  }
  return loadu_si512(out);
}
inline __m512 maskz_compress_ps(__mmask16 mask, __m512 a) {
  return castsi512_ps(maskz_compress_epi32(mask, castps_si512(a)));
}

}  // namespace emulated
