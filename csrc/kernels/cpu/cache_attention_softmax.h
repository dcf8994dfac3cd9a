// What lies between the scores of a head and its sum of values; each SIMD level includes this and
// is compiled with its own flags.
#pragma once

#include <cstdint>

#include "kernels/cpu/cache_attention.h"
#include "kernels/cpu/chain_sums.h"
#include "kernels/decode_math.h"

namespace vqgan_fast {
namespace {

constexpr int64_t kValueSegment = 64;  // entries whose values one chain adds up

// Turns scores into exp(score - largest) and returns their sum. A NaN among them makes it NaN.
float exponentials(float* scores, int64_t count) {
  float lanes[kChains];
  for (int c = 0; c < kChains; ++c) lanes[c] = scores[0];
  int64_t i = 0;
  for (; i + kChains <= count; i += kChains) {
    for (int c = 0; c < kChains; ++c)
      lanes[c] = scores[i + c] > lanes[c] ? scores[i + c] : lanes[c];
  }
  for (; i < count; ++i) lanes[0] = scores[i] > lanes[0] ? scores[i] : lanes[0];
  float largest = lanes[0];
  for (int c = 1; c < kChains; ++c) largest = lanes[c] > largest ? lanes[c] : largest;
  for (i = 0; i < count; ++i) scores[i] = exp_of_negative(scores[i] - largest);
  return chain_sum(count, [scores](int64_t j, float chain) { return chain + scores[j]; });
}

// Calls step(entry, rank) for the entries of a head in order, and end() behind each segment.
template <class Step, class End>
inline __attribute__((always_inline)) void each_value(const HeadAttention& head, const Step& step,
                                                      const End& end) {
  int64_t rank = 0;
  for (int64_t i = 0; i < head.num_runs; ++i) {
    int64_t entry = head.runs[i].begin;
    const int64_t stop = entry + head.runs[i].count;
    while (entry < stop) {
      const int64_t room = kValueSegment - rank % kValueSegment;
      const int64_t until = stop - entry < room ? stop : entry + room;
      for (; entry < until; ++entry, ++rank) step(entry, rank);
      if (rank % kValueSegment == 0 || rank == head.entries) end(rank <= kValueSegment);
    }
  }
}

}  // namespace
}  // namespace vqgan_fast
