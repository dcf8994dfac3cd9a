// Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
// 2011), and the noise of a draw, for the host's compilers and for nvcc.
// vqgan_fast/ops/reference/philox.py is the definition.
#pragma once

#include <cstdint>

#include "kernels/decode_math.h"

namespace vqgan_fast {
namespace {

// The four words that key (seed) makes of a counter, in its place: of one, or of one for each lane
// of a vector. multiply(words, factor, high, low) gives the halves of the 64-bit products. nvcc
// keeps kAtOnce rounds in flight, each in registers of its own.
template <int kAtOnce = 10, class Words, class Multiply>
VQGAN_FAST_MATH void philox(Words counter[4], uint64_t seed, const Multiply& multiply) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
#if defined(__CUDA_ARCH__)
#pragma unroll kAtOnce
#endif
  for (int round = 0; round < 10; ++round) {
    Words high[2], low[2];
    multiply(counter[0], 0xD2511F53u, &high[0], &low[0]);
    multiply(counter[2], 0xCD9E8D57u, &high[1], &low[1]);
    counter[0] = high[1] ^ counter[1] ^ key0;
    counter[1] = low[1];
    counter[2] = high[0] ^ counter[3] ^ key1;
    counter[3] = low[0];
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

struct MultiplyWords {
  VQGAN_FAST_MATH void operator()(uint32_t word, uint32_t factor, uint32_t* high,
                                  uint32_t* low) const {
    const uint64_t product = static_cast<uint64_t>(word) * factor;
    *high = static_cast<uint32_t>(product >> 32);
    *low = static_cast<uint32_t>(product);
  }
};

// The first word of the counter (code, cell, 0, 0).
VQGAN_FAST_MATH uint32_t philox_word(uint64_t seed, uint32_t cell, uint32_t code) {
  uint32_t words[4] = {code, cell, 0, 0};
  philox(words, seed, MultiplyWords());
  return words[0];
}

// -log(-log(u)), u = (word + 1/2) / 2^32.
VQGAN_FAST_MATH double gumbel_noise(uint32_t word) {
  // An integer below 2^52 becomes a double by way of the bits of 2^52 + it.
  const double number = double_from_bits(0x4330000000000000u | word) - 0x1p52;
  return -log_of_positive(-log_of_positive((number + 0.5) * 0x1p-32));
}

}  // namespace
}  // namespace vqgan_fast
