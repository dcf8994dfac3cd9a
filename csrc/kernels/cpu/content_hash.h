// What a matrix holds, in 128 bits.
#pragma once

#include <cstdint>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"

namespace vqgan_fast {

struct ContentHash {
  uint64_t low = 0;
  uint64_t high = 0;

  bool operator==(const ContentHash& other) const { return low == other.low && high == other.high; }
  bool operator!=(const ContentHash& other) const { return !(*this == other); }
};

// Of the elements' bits in order, whatever the strides: -0.0 is not 0.0, and of NaNs each is
// itself. A matrix whose columns lie in memory one after the other has a hash of its own, so that
// it too is read at the speed of memory. Two different matrices of one type and size share a hash
// with probability below 2^-60, whatever they hold; type and size are not part of it. Holds within
// this process only, whose keys are drawn when the first is needed.
ContentHash hash_content(const Rows& matrix, int64_t num_rows, int64_t dim,
                         const Parallel& parallel);

}  // namespace vqgan_fast
