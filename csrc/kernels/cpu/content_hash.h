// What a matrix holds, in 128 bits.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"

namespace vqgan_fast {

struct ContentHash {
  uint64_t low = 0;
  uint64_t high = 0;

  bool operator==(const ContentHash& other) const { return low == other.low && high == other.high; }
  bool operator!=(const ContentHash& other) const { return !(*this == other); }
};

// The hash of so many bytes, by the same keys: two different sequences of one size share it with
// probability below 2^-60, whoever chose them.
ContentHash hash_bytes(const char* bytes, int64_t size);

// Rows of a matrix in memory of their own.
struct HeldRows {
  int64_t first = 0;
  int64_t count = 0;
  Rows rows;  // row i is row first + i of the matrix
  std::vector<char> bytes;
};

// The hash of a matrix with those of its blocks, 16 bytes for each of at most 4 KB.
//
// Of the elements' bits in order, whatever the strides: -0.0 is not 0.0, and of NaNs each is
// itself. A matrix each of whose columns lies in one piece has a hash of its own, so that it too is
// read at the speed of memory. Two different matrices of one type and size share a hash with
// probability below 2^-60, whatever they hold; type and size are not part of it. Holds within this
// process only, whose keys are drawn when the first is needed.
class ContentTree {
 public:
  ContentTree(const Rows& matrix, int64_t num_rows, int64_t dim, const Parallel& parallel);

  ContentHash hash() const { return hash_; }

  // Copies the rows first .. first + count - 1, and what else lies in their blocks, and returns
  // whether it is what was hashed. What *held gets is read once, so that this holds of it even if
  // another thread writes to the matrix.
  bool copy_rows(int64_t first, int64_t count, HeldRows* held) const;

 private:
  const Rows matrix_;
  const int64_t num_rows_, dim_;
  std::vector<ContentHash> blocks_;
  ContentHash hash_;
};

}  // namespace vqgan_fast
