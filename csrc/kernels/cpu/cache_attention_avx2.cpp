#include <immintrin.h>

#include "kernels/cpu/cache_attention_softmax.h"

namespace vqgan_fast {
namespace {

__m256 load8(const float* from) { return _mm256_loadu_ps(from); }
__m256 load8(const uint16_t* from) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

// Lanes c and c + 4 of both, a's in the low half.
__m256 add_halves(__m256 a, __m256 b) {
  return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
// In each half, lanes c and c + 2 of a, then of b.
__m256 add_pairs(__m256 a, __m256 b) {
  const __m256d x = _mm256_castps_pd(a), y = _mm256_castps_pd(b);
  return _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(x, y)),
                       _mm256_castpd_ps(_mm256_unpackhi_pd(x, y)));
}
// In each half, lanes c and c + 1 of a, then of b.
__m256 add_neighbours(__m256 a, __m256 b) {
  return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
}

// The scores of a run, eight keys at a time; writes up to seven more than there are.
template <class T>
void score_run(const HeadAttention& head, const T* keys, int64_t count, float* scores) {
  const __m256 scale = _mm256_set1_ps(head.scale);
  for (int64_t n = 0; n < count; n += 8) {
    const T* key[8];
    for (int i = 0; i < 8; ++i) {
      key[i] = keys + (n + i < count ? n + i : count - 1) * head.head_dim;
    }
    __m256 c[8];
    for (int i = 0; i < 8; ++i) c[i] = _mm256_setzero_ps();
    for (int64_t d = 0; d < head.head_dim; d += 8) {
      const __m256 q = _mm256_loadu_ps(head.q + d);
      for (int i = 0; i < 8; ++i) c[i] = _mm256_fmadd_ps(q, load8(key[i] + d), c[i]);
    }
    const __m256 low = add_pairs(add_halves(c[0], c[4]), add_halves(c[1], c[5]));
    const __m256 high = add_pairs(add_halves(c[2], c[6]), add_halves(c[3], c[7]));
    _mm256_storeu_ps(scores + n, _mm256_mul_ps(add_neighbours(low, high), scale));
  }
}

// Columns [column, column + 8 kVectors) of the sum of values.
template <class T, int kVectors>
void add_values(const HeadAttention& head, int64_t column, __m256 total) {
  const T* values = static_cast<const T*>(head.v) + column;
  __m256 chains[kVectors], sums[kVectors];
  for (int i = 0; i < kVectors; ++i) chains[i] = sums[i] = _mm256_setzero_ps();
  each_value(
      head,
      [&](int64_t entry, int64_t rank) {
        const __m256 weight = _mm256_broadcast_ss(head.scores + rank);
        const T* value = values + entry * head.head_dim;
        for (int i = 0; i < kVectors; ++i) {
          chains[i] = _mm256_fmadd_ps(weight, load8(value + 8 * i), chains[i]);
        }
      },
      [&](bool first) {
        for (int i = 0; i < kVectors; ++i) {
          sums[i] = first ? chains[i] : _mm256_add_ps(sums[i], chains[i]);
          chains[i] = _mm256_setzero_ps();
        }
      });
  for (int i = 0; i < kVectors; ++i) {
    _mm256_storeu_ps(head.out + column + 8 * i, _mm256_div_ps(sums[i], total));
  }
}

template <class T>
void attend(const HeadAttention& head) {
  const T* keys = static_cast<const T*>(head.k);
  int64_t rank = 0;
  for (int64_t i = 0; i < head.num_runs; ++i) {
    score_run(head, keys + head.runs[i].begin * head.head_dim, head.runs[i].count,
              head.scores + rank);
    rank += head.runs[i].count;
  }
  const __m256 total = _mm256_set1_ps(exponentials(head.scores, head.entries));
  int64_t column = 0;
  for (; column + 64 <= head.head_dim; column += 64) add_values<T, 8>(head, column, total);
  for (; column + 32 <= head.head_dim; column += 32) add_values<T, 4>(head, column, total);
  for (; column < head.head_dim; column += 8) add_values<T, 1>(head, column, total);
}

}  // namespace

void attend_head_avx2(const HeadAttention& head) {
  if (head.bfloat16) return attend<uint16_t>(head);
  attend<float>(head);
}

}  // namespace vqgan_fast
