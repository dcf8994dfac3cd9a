// Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
// 2011), and the noise of a draw, for the host's compilers and for nvcc.
// vqgan_fast/ops/reference/philox.py is the definition.
#pragma once

#include <cstdint>

#include "kernels/decode_math.h"

namespace vqgan_fast {
namespace {

// The first word that key (seed) makes of the counter (code, cell, 0, 0).
VQGAN_FAST_MATH uint32_t philox_word(uint64_t seed, uint32_t cell, uint32_t code) {
  uint32_t c0 = code, c1 = cell, c2 = 0, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(c0) * 0xD2511F53u;
    const uint64_t product1 = static_cast<uint64_t>(c2) * 0xCD9E8D57u;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(product0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}

// -log(-log(u)), u = (word + 1/2) / 2^32.
VQGAN_FAST_MATH double gumbel_noise(uint32_t word) {
  // An integer below 2^52 becomes a double by way of the bits of 2^52 + it.
  const double number = double_from_bits(0x4330000000000000u | word) - 0x1p52;
  return -log_of_positive(-log_of_positive((number + 0.5) * 0x1p-32));
}

}  // namespace
}  // namespace vqgan_fast
