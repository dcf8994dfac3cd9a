// The order in which the decode ops sum a row of n numbers: number i joins chain i mod 32, and the
// 32 chains are added as a tree, c with c + 16, then with c + 8, ... Every SIMD level includes this
// and is compiled with its own flags.
#pragma once

#include <cstdint>

namespace vqgan_fast {
namespace {

constexpr int kChains = 32;

// step(i, chain) is chain with number i added.
template <class Step>
inline __attribute__((always_inline)) float chain_sum(int64_t n, const Step& step) {
  float chains[kChains] = {};
  int64_t i = 0;
  for (; i + kChains <= n; i += kChains) {
    for (int c = 0; c < kChains; ++c) chains[c] = step(i + c, chains[c]);
  }
  for (int c = 0; i + c < n; ++c) chains[c] = step(i + c, chains[c]);
  for (int width = kChains / 2; width > 0; width /= 2) {
    for (int c = 0; c < width; ++c) chains[c] += chains[c + width];
  }
  return chains[0];
}

}  // namespace
}  // namespace vqgan_fast
