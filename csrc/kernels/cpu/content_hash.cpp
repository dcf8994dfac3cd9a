// A tree of NH hashes (Black, Halevi, Krawczyk, Krovetz, Rogaway, "UMAC", CRYPTO 1999). NH takes a
// block of 64-bit words w and as many random keys k to
//     sum_i (w[2i] + k[2i] mod 2^64) * (w[2i+1] + k[2i+1] mod 2^64)  mod 2^128,
// and two different blocks of one length get the same sum with probability at most 2^-64 over the
// keys. A level of the tree turns each block of 4 KB into these 16 bytes, with keys of its own,
// until one is left: at most 8 levels for any size, so that a union bound gives 8 * 2^-64. (Trees
// of different heights, of rows and of tiles of one matrix, end in keys of their own levels.) One
// multiplication for 16 bytes keeps up with the caches on any 64-bit machine without SIMD.
#include "kernels/cpu/content_hash.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "kernels/cpu/row_loops.h"

namespace vqgan_fast {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr int64_t kBlockWords = 512;
constexpr int64_t kBlockBytes = kBlockWords * 8;
constexpr int kMostLevels = 8;
// Of a tile of columns, at least: some whole cache lines of each.
constexpr int64_t kLeastTileRows = 64;
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

// Of `words` words, a multiple of 4; those behind count as zeros that are the same for all blocks.
ContentHash nh(const char* block, const Keys& keys, int64_t words = kBlockWords) {
  // Two sums, or each addition would wait for the carry of the one before.
  Wide even = 0, odd = 0;
  for (int64_t i = 0; i < words; i += 4) {
    const char* at = block + i * 8;
    even += static_cast<Wide>(word(at) + keys[i]) * (word(at + 8) + keys[i + 1]);
    odd += static_cast<Wide>(word(at + 16) + keys[i + 2]) * (word(at + 24) + keys[i + 3]);
  }
  const Wide sum = even + odd;
  return {static_cast<uint64_t>(sum), static_cast<uint64_t>(sum >> 64)};
}

// The top of the tree over the sums of the lowest level.
ContentHash top_of(std::vector<ContentHash> sums) {
  for (int level = 1; sums.size() > 1; ++level) {
    const int64_t num_blocks = blocks_of(sums.size() * sizeof(ContentHash));
    sums.resize(num_blocks * (kBlockBytes / sizeof(ContentHash)));
    const char* data = reinterpret_cast<const char*>(sums.data());
    for (int64_t b = 0; b < num_blocks; ++b) {
      sums[b] = nh(data + b * kBlockBytes, keys()[level]);
    }
    sums.resize(num_blocks);
  }
  return sums[0];
}

// The sum of the bytes from `bytes` on, at most a block of them.
ContentHash sum_of(const char* bytes, int64_t size) {
  constexpr int64_t kStep = 32;
  const int64_t whole = size / kStep * kStep;
  if (whole == size) return nh(bytes, keys()[0], size / 8);
  char copy[kBlockBytes];
  std::memcpy(copy, bytes, size);
  std::memset(copy + size, 0, whole + kStep - size);
  return nh(copy, keys()[0], (whole + kStep) / 8);
}

// The matrix as a sequence of blocks, each padded with zeros. They hold the rows one after the
// other; where columns lie in memory, they hold tiles of it, block_rows() rows of some columns,
// first those of the first rows.
class Blocks {
 public:
  Blocks(const Rows& matrix, int64_t num_rows, int64_t dim)
      : matrix_(matrix),
        num_rows_(num_rows),
        dim_(dim),
        size_(bytes_of(matrix.dtype)),
        num_elements_(num_rows * dim) {
    const bool elements_touch = dim == 1 || matrix.element_stride == 1;
    const bool rows_touch = num_rows <= 1 || matrix.inner_rows == 1 || matrix.inner_stride == dim;
    const bool one_group = matrix.inner_rows >= num_rows;
    const bool groups_touch = one_group || matrix.outer_stride == matrix.inner_rows * dim;
    contiguous_ = elements_touch && rows_touch && groups_touch;
    if (contiguous_ || !one_group || matrix.inner_stride != 1) return;
    if (num_rows < kLeastTileRows) return;  // tiles would be empty for the most part
    block_columns_ = 1;
    while (block_columns_ < dim && block_columns_ * kLeastTileRows * size_ < kBlockBytes) {
      block_columns_ *= 2;
    }
    tiles_across_ = (dim + block_columns_ - 1) / block_columns_;
  }

  bool in_tiles() const { return tiles_across_ > 0; }
  int64_t tiles_across() const { return tiles_across_; }
  int64_t block_rows() const { return kBlockBytes / size_ / block_columns_; }
  int64_t row_bytes() const { return dim_ * size_; }

  int64_t count() const {
    if (num_elements_ == 0) return 0;
    if (!in_tiles()) return blocks_of(num_elements_ * size_);
    return (num_rows_ + block_rows() - 1) / block_rows() * tiles_across_;
  }

  // The block where it lies if it can be read there, else in *copy.
  const char* block(int64_t index, char* copy) const {
    const int64_t first = index * kBlockBytes / size_;
    if (contiguous_ && num_elements_ - first >= kBlockBytes / size_) return at(first);
    copy_block(index, copy);
    return copy;
  }

  // The same, in kBlockBytes bytes at `out` in any case.
  void copy_block(int64_t index, char* out) const {
    if (in_tiles()) return copy_tile(index, out);
    const int64_t first = index * kBlockBytes / size_;
    const int64_t count = std::min(kBlockBytes / size_, num_elements_ - first);
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

  // Columns one after the other, block_rows() rows of each.
  void copy_tile(int64_t index, char* out) const {
    const int64_t first_row = index / tiles_across_ * block_rows();
    const int64_t first_column = index % tiles_across_ * block_columns_;
    const int64_t rows = std::min(block_rows(), num_rows_ - first_row);
    const int64_t columns = std::min(block_columns_, dim_ - first_column);
    if (rows < block_rows() || columns < block_columns_) std::memset(out, 0, kBlockBytes);
    const bool is_last_across = first_column + columns == dim_;
    const int64_t next_row = is_last_across ? first_row + rows : first_row;
    const int64_t next_column = is_last_across ? 0 : first_column + columns;
    const int64_t next_rows = std::min(block_rows(), num_rows_ - next_row);
    for (int64_t c = 0; c < block_columns_; ++c) {
      if (c < columns) {
        std::memcpy(out + c * block_rows() * size_,
                    at(first_row + (first_column + c) * matrix_.element_stride), rows * size_);
      }
      // No hardware foresees as many streams as there are columns: the next tile.
      if (next_rows == 0 || next_column + c >= dim_) continue;
      const char* const next = at(next_row + (next_column + c) * matrix_.element_stride);
      for (int64_t i = 0; i < next_rows * size_; i += 64) __builtin_prefetch(next + i);
    }
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
  int64_t num_rows_, dim_, size_, num_elements_;
  bool contiguous_;
  int64_t block_columns_ = 1, tiles_across_ = 0;  // of tiles
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

ContentHash hash_bytes(const char* bytes, int64_t size) {
  if (size <= kBlockBytes) return mixed(sum_of(bytes, size));
  std::vector<ContentHash> sums;
  for (int64_t at = 0; at < size; at += kBlockBytes) {
    sums.push_back(sum_of(bytes + at, std::min(kBlockBytes, size - at)));
  }
  return mixed(top_of(std::move(sums)));
}

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
  ContentHash top = top_of(blocks_);
  // The bound holds for any difference of two sums, not for 0 alone: a constant may be added.
  if (blocks.in_tiles()) ++top.high;
  hash_ = mixed(top);
}

bool ContentTree::copy_rows(int64_t first, int64_t count, HeldRows* held) const {
  const Blocks blocks(matrix_, num_rows_, dim_);
  int64_t begin, end;  // blocks
  if (blocks.in_tiles()) {
    const int64_t block_rows = blocks.block_rows();
    begin = first / block_rows;
    end = (first + count + block_rows - 1) / block_rows;
    held->first = begin * block_rows;
    held->count = std::min(num_rows_, end * block_rows) - held->first;
    begin *= blocks.tiles_across();
    end *= blocks.tiles_across();
  } else {
    begin = first * blocks.row_bytes() / kBlockBytes;
    end = blocks_of((first + count) * blocks.row_bytes());
    held->first = first;
    held->count = std::min(num_rows_, end * kBlockBytes / blocks.row_bytes()) - first;
  }
  held->bytes.resize((end - begin) * kBlockBytes);
  bool same = true;
  for (int64_t b = begin; b < end; ++b) {
    char* const out = held->bytes.data() + (b - begin) * kBlockBytes;
    blocks.copy_block(b, out);
    same &= nh(out, keys()[0]) == blocks_[b];
  }
  if (blocks.in_tiles()) {
    const int64_t row_of_tiles = blocks.tiles_across() * (kBlockBytes / bytes_of(matrix_.dtype));
    held->rows = Rows{held->bytes.data(), matrix_.dtype, blocks.block_rows(), row_of_tiles, 1,
                      blocks.block_rows()};
  } else {
    const char* const data = held->bytes.data() + first * blocks.row_bytes() - begin * kBlockBytes;
    held->rows = contiguous_rows(data, matrix_.dtype, held->count, dim_);
  }
  return same;
}

}  // namespace vqgan_fast
