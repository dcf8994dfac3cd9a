// What the passes of soft_assign share: rows as they own them, columns as they pass by, and the
// logits of a tile.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/cpu/aligned_memory.h"
#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/row_block.h"
#include "kernels/cpu/row_tasks.h"
#include "kernels/cpu/soft_assign.h"
#include "kernels/cpu/soft_assign_loops.h"

namespace vqgan_fast {

inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// A pass: num_rows rows, owned in blocks by one thread each, and num_columns that pass by each
// block in ascending order. So every result has one order of summation, whatever the threads.
struct SoftPass {
  int64_t num_rows, num_columns, num_threads, block_rows;

  SoftPass(int64_t rows, int64_t columns, int64_t dim, const Parallel& parallel)
      : num_rows(rows),
        num_columns(columns),
        num_threads(useful_threads(rows, columns, dim, parallel)),
        block_rows(kSoftBlockRows) {
    if (num_threads == 1) return;
    const int64_t even = rows / (4 * num_threads) + 1;
    block_rows = std::min(round_up(even, kSoftRowStep), kSoftBlockRows);
  }

  // Runs worker(begin, count) on every block of rows; make_worker() is called once for a thread.
  template <class MakeWorker>
  void run(const Parallel& parallel, const MakeWorker& make_worker) const {
    const int64_t num_blocks = (num_rows + block_rows - 1) / block_rows;
    share_tasks(num_blocks, num_threads, parallel, [&](const auto& next) {
      auto worker = make_worker();
      for (int64_t t = next(); t >= 0; t = next()) {
        const int64_t begin = t * block_rows;
        worker(begin, std::min(block_rows, num_rows - begin));
      }
    });
  }
};

// A block of rows as given, and measured from a centre (null: from 0) in T; padded with zeros to a
// multiple of kSoftRowStep.
template <class T>
class OwnRows {
 public:
  explicit OwnRows(int64_t dim)
      : dim_(dim),
        loaded_(allocate_array<double>(kSoftBlockRows * dim)),
        rows_(allocate_array<T>(kSoftBlockRows * dim)) {}
  void load(const Rows& rows, int64_t begin, int64_t count, const double* centre) {
    const int64_t padded = round_up(count, kSoftRowStep);
    load_rows(rows, begin, count, dim_, loaded_.get());
    std::fill(loaded_.get() + count * dim_, loaded_.get() + padded * dim_, 0.0);
    for (int64_t r = 0; r < padded; ++r) {
      for (int64_t d = 0; d < dim_; ++d) {
        const double from = centre == nullptr || r >= count ? 0.0 : centre[d];
        rows_[r * dim_ + d] = static_cast<T>(loaded_[r * dim_ + d] - from);
      }
    }
  }
  const T* data() const { return rows_.get(); }
  const double* as_given() const { return loaded_.get(); }
  double operator()(int64_t r, int64_t d) const { return loaded_[r * dim_ + d]; }

 private:
  int64_t dim_;
  AlignedArray<double> loaded_;
  AlignedArray<T> rows_;
};

enum class PackFor {
  kLogits,  // the columns are the items, a panel begins at first_item * dim
  kSums,    // the columns are the elements, items are summed over; a block of kSoftBlockColumns
            // items begins at first_item * padded dim
};

// The items (codes or latents) of one side, measured from a centre (null: from 0) and packed for
// one of the two products.
template <class T>
AlignedArray<T> pack_columns(const Rows& rows, int64_t count, int64_t dim, const double* centre,
                             PackFor what, int panel, const Parallel& parallel) {
  const bool sums = what == PackFor::kSums;
  const int64_t padded_dim = round_up(dim, panel);
  auto packed = allocate_array<T>(sums ? count * padded_dim : round_up(count, panel) * dim);
  // Panels do not cross a block: its items are a multiple of the panel's.
  const int64_t num_blocks = (count + kSoftBlockColumns - 1) / kSoftBlockColumns;
  const int64_t step = std::min<int64_t>(panel, kSoftBlockColumns);
  parallel.run(0, num_blocks, 1, [&](int64_t begin_block, int64_t end_block) {
    const DefaultFloatMode float_mode;
    const auto items = allocate_array<double>(step * dim);
    for (int64_t b = begin_block; b < end_block; ++b) {
      const int64_t first = b * kSoftBlockColumns;
      const int64_t size = std::min(kSoftBlockColumns, count - first);
      for (int64_t i = 0; i < size; i += step) {
        const int64_t n = std::min(step, size - i);
        load_rows(rows, first + i, n, dim, items.get());
        for (int64_t j = 0; centre != nullptr && j < n; ++j) {
          for (int64_t d = 0; d < dim; ++d) items[j * dim + d] -= centre[d];
        }
        if (sums) {
          T* block = packed.get() + first * padded_dim;
          for (int64_t d = 0; d < padded_dim; ++d) {
            T* column = block + d / panel * size * panel + d % panel;
            for (int64_t j = 0; j < n; ++j) {
              column[(i + j) * panel] = d < dim ? static_cast<T>(items[j * dim + d]) : T(0);
            }
          }
        } else {
          T* out = packed.get() + (first + i) * dim;
          for (int64_t d = 0; d < dim; ++d) {
            for (int64_t j = 0; j < panel; ++j) {
              out[d * panel + j] = j < n ? static_cast<T>(items[j * dim + d]) : T(0);
            }
          }
        }
      }
    }
  });
  return packed;
}

// What rounding to T leaves out.
template <class T>
T low_part(double value) {
  return static_cast<T>(value - static_cast<double>(static_cast<T>(value)));
}

// Numbers of columns in T, padded to a multiple of kSoftBlockColumns.
template <class T>
std::vector<T> padded_columns(const double* values, int64_t count, double padding) {
  std::vector<T> out(static_cast<size_t>(round_up(count, kSoftBlockColumns)),
                     static_cast<T>(padding));
  if (values == nullptr) return std::fill(out.begin(), out.end(), T(0)), out;
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(values[i]);
  return out;
}

// Numbers of columns in two parts, together good for twice the digits of T.
template <class T>
struct SplitColumns {
  std::vector<T> high, low;

  SplitColumns(const double* values, int64_t count)
      : high(padded_columns<T>(values, count, 0.0)), low(high.size()) {
    for (int64_t i = 0; values != nullptr && i < count; ++i) low[i] = low_part<T>(values[i]);
  }
};

// The noise of a tile, already divided by the temperature; null where there is none.
template <class T>
class TileNoise {
 public:
  TileNoise(const SoftAssignProblem& problem, const SoftAssignLoops<T>& loops)
      : loops_(loops), seed_(problem.seed), scale_(static_cast<T>(1.0 / problem.temperature)) {
    if (problem.noisy) noise_ = allocate_array<T>(kSoftBlockRows * kSoftBlockColumns);
  }
  // Rows are latents, columns codes.
  void of_latents(int64_t row, int64_t num_rows, int64_t first_code, int64_t n) {
    for (int64_t r = 0; noise_ && r < num_rows; ++r) {
      loops_.noise_of_codes(seed_, static_cast<uint64_t>(row + r),
                            static_cast<uint64_t>(first_code), n, scale_, line(r));
    }
  }
  // Rows are codes, columns latents.
  void of_codes(int64_t code, int64_t num_codes, int64_t first_row, int64_t n) {
    for (int64_t r = 0; noise_ && r < num_codes; r += 4) {
      loops_.noise_of_rows(seed_, static_cast<uint64_t>(code + r), static_cast<uint64_t>(first_row),
                           n, scale_, line(r));
    }
  }
  const T* row(int64_t r) const { return noise_ ? noise_.get() + r * kSoftBlockColumns : nullptr; }

 private:
  T* line(int64_t r) { return noise_.get() + r * kSoftBlockColumns; }

  const SoftAssignLoops<T>& loops_;
  uint64_t seed_;
  T scale_;
  AlignedArray<T> noise_;
};

}  // namespace vqgan_fast
