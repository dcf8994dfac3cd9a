// A tree of NH hashes (Black, Halevi, Krawczyk, Krovetz, Rogaway, "UMAC", CRYPTO 1999). NH takes a
// block of 64-bit words w and as many random keys k to
//     sum_i (w[2i] + k[2i] mod 2^64) * (w[2i+1] + k[2i+1] mod 2^64)  mod 2^128,
// and two different blocks of one length get the same sum with probability at most 2^-64 over the
// keys. A level of the tree turns each block of 4 KB into these 16 bytes, with keys of its own,
// until one is left: at most 8 levels for any size, so that a union bound gives 8 * 2^-64. One
// multiplication for 16 bytes keeps up with the caches on any 64-bit machine without SIMD.
#include "kernels/cpu/content_hash.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu/row_loops.h"

namespace vqgan_fast {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr int64_t kBlockWords = 512;
constexpr int64_t kBlockBytes = kBlockWords * 8;
constexpr int kMostLevels = 8;
// Blocks that are worth a thread.
constexpr int64_t kGrainBlocks = 64;

using Keys = std::array<uint64_t, kBlockWords>;

const std::array<Keys, kMostLevels>& keys() {
  static const auto drawn = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    std::mt19937_64 random(seed);
    std::array<Keys, kMostLevels> all;
    for (Keys& level : all) {
      for (uint64_t& key : level) key = random();
    }
    return all;
  }();
  return drawn;
}

int64_t blocks_of(int64_t bytes) { return (bytes + kBlockBytes - 1) / kBlockBytes; }

uint64_t word(const char* bytes) {
  uint64_t value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

ContentHash nh(const char* block, const Keys& keys) {
  // Two sums, or each addition would wait for the carry of the one before.
  Wide even = 0, odd = 0;
  for (int64_t i = 0; i < kBlockWords; i += 4) {
    const char* at = block + i * 8;
    even += static_cast<Wide>(word(at) + keys[i]) * (word(at + 8) + keys[i + 1]);
    odd += static_cast<Wide>(word(at + 16) + keys[i + 2]) * (word(at + 24) + keys[i + 3]);
  }
  const Wide sum = even + odd;
  return {static_cast<uint64_t>(sum), static_cast<uint64_t>(sum >> 64)};
}

// The matrix as a sequence of blocks: its rows one after the other, or its columns where they lie
// so in memory without gaps.
class Blocks {
 public:
  Blocks(const Rows& matrix, int64_t num_rows, int64_t dim)
      : matrix_(matrix), dim_(dim), size_(bytes_of(matrix.dtype)), count_(num_rows * dim) {
    const bool elements_touch = dim == 1 || matrix.element_stride == 1;
    const bool rows_touch = num_rows <= 1 || matrix.inner_rows == 1 || matrix.inner_stride == dim;
    const bool one_group = matrix.inner_rows >= num_rows;
    const bool groups_touch = one_group || matrix.outer_stride == matrix.inner_rows * dim;
    transposed_ = one_group && num_rows > 1 && dim > 1 && matrix.inner_stride == 1 &&
                  matrix.element_stride == num_rows;
    contiguous_ = transposed_ || (elements_touch && rows_touch && groups_touch);
  }

  int64_t count() const { return blocks_of(count_ * size_); }
  int64_t element_size() const { return size_; }
  bool transposed() const { return transposed_; }

  // The block, zeros behind the end: where it lies if it can be read there, else in *copy.
  const char* block(int64_t index, char* copy) const {
    const int64_t first = index * kBlockBytes / size_;
    if (contiguous_ && count_ - first >= kBlockBytes / size_) return at(first);
    copy_block(index, copy);
    return copy;
  }

  // The same, in kBlockBytes bytes at `out` in any case.
  void copy_block(int64_t index, char* out) const {
    const int64_t first = index * kBlockBytes / size_;
    const int64_t count = std::min(kBlockBytes / size_, count_ - first);
    std::memset(out + count * size_, 0, kBlockBytes - count * size_);
    if (contiguous_) {
      std::memcpy(out, at(first), count * size_);
      return;
    }
    int64_t row = first / dim_, column = first % dim_;
    for (int64_t done = 0; done < count; ++row, column = 0) {
      const int64_t run = std::min(dim_ - column, count - done);
      gather(at(matrix_.offset(row) + column * matrix_.element_stride), run, out + done * size_);
      done += run;
    }
  }

 private:
  const char* at(int64_t element) const {
    return static_cast<const char*>(matrix_.data) + element * size_;
  }

  void gather(const char* from, int64_t count, char* out) const {
    const int64_t step = matrix_.element_stride * size_;
    if (step == size_) {
      std::memcpy(out, from, count * size_);
    } else if (size_ == 8) {
      for (int64_t i = 0; i < count; ++i) std::memcpy(out + 8 * i, from + i * step, 8);
    } else if (size_ == 4) {
      for (int64_t i = 0; i < count; ++i) std::memcpy(out + 4 * i, from + i * step, 4);
    } else {
      for (int64_t i = 0; i < count; ++i) std::memcpy(out + 2 * i, from + i * step, 2);
    }
  }

  Rows matrix_;
  int64_t dim_, size_, count_;
  bool transposed_, contiguous_;
};

// A bijection, so that it takes nothing from the bound, after which every bit depends on all: the
// sums alone carry a difference in high bits upwards only.
ContentHash mixed(ContentHash h) {
  const auto scramble = [](uint64_t x) {
    x = (x ^ (x >> 32)) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 32)) * 0x9e3779b97f4a7c15u;
    return x ^ (x >> 32);
  };
  for (int round = 0; round < 2; ++round) {
    h.low ^= scramble(h.high);
    h.high ^= scramble(h.low);
  }
  return h;
}

}  // namespace

ContentTree::ContentTree(const Rows& matrix, int64_t num_rows, int64_t dim,
                         const Parallel& parallel)
    : matrix_(matrix), num_rows_(num_rows), dim_(dim) {
  const Blocks blocks(matrix, num_rows, dim);
  if (blocks.count() == 0) return;
  const auto& all_keys = keys();
  blocks_.resize(blocks.count());
  parallel.run(0, blocks.count(), kGrainBlocks, [&](int64_t begin, int64_t end) {
    char copy[kBlockBytes];
    for (int64_t b = begin; b < end; ++b) blocks_[b] = nh(blocks.block(b, copy), all_keys[0]);
  });
  std::vector<ContentHash> sums = blocks_;
  for (int level = 1; sums.size() > 1; ++level) {
    const int64_t num_blocks = blocks_of(sums.size() * sizeof(ContentHash));
    sums.resize(num_blocks * (kBlockBytes / sizeof(ContentHash)));
    const char* data = reinterpret_cast<const char*>(sums.data());
    for (int64_t b = 0; b < num_blocks; ++b) sums[b] = nh(data + b * kBlockBytes, all_keys[level]);
    sums.resize(num_blocks);
  }
  // The bound holds for any difference of two sums, not for 0 alone: a constant may be added.
  if (blocks.transposed()) ++sums[0].high;
  hash_ = mixed(sums[0]);
}

bool ContentTree::copy_rows(int64_t first, int64_t count, HeldRows* held) const {
  const Blocks blocks(matrix_, num_rows_, dim_);
  const int64_t size = blocks.element_size();
  bool same = true;
  // Reads the blocks begin .. end - 1.
  const auto copy_blocks = [&](int64_t begin, int64_t end, char* out) {
    for (int64_t b = begin; b < end; ++b, out += kBlockBytes) {
      blocks.copy_block(b, out);
      same &= nh(out, keys()[0]) == blocks_[b];
    }
  };
  held->first = first;
  if (!blocks.transposed()) {
    const int64_t row_bytes = dim_ * size;
    const int64_t begin = first * row_bytes / kBlockBytes;
    const int64_t end = blocks_of((first + count) * row_bytes);
    held->bytes.resize((end - begin) * kBlockBytes);
    copy_blocks(begin, end, held->bytes.data());
    held->count = std::min(num_rows_, end * kBlockBytes / row_bytes) - first;
    held->rows = contiguous_rows(held->bytes.data() + first * row_bytes - begin * kBlockBytes,
                                 matrix_.dtype, held->count, dim_);
    return same;
  }
  // As many rows as a block holds of a column: with fewer, each block would be read many times.
  const int64_t block_rows = kBlockBytes / size;
  held->first = first / block_rows * block_rows;
  const int64_t end_row = (first + count + block_rows - 1) / block_rows * block_rows;
  held->count = std::min(num_rows_, end_row) - held->first;
  const int64_t run = held->count * size;
  held->bytes.resize(run * dim_);
  std::vector<char> column(run + 2 * kBlockBytes);
  for (int64_t d = 0; d < dim_; ++d) {
    const int64_t at = (d * num_rows_ + held->first) * size;
    copy_blocks(at / kBlockBytes, blocks_of(at + run), column.data());
    std::memcpy(held->bytes.data() + d * run, column.data() + at % kBlockBytes, run);
  }
  held->rows = Rows{held->bytes.data(), matrix_.dtype, held->count, 0, 1, held->count};
  return same;
}

}  // namespace vqgan_fast
