#include "kernels/cpu/codebook_stats.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <type_traits>

#include "kernels/cpu/aligned_memory.h"
#include "kernels/cpu/code_sums.h"
#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/row_block.h"
#include "kernels/cpu/row_tiles.h"

namespace vqgan_fast {
namespace {

// Sums that are taken together: with their rows they stay in L1.
constexpr int64_t kMostSums = 1024;
constexpr int64_t kMostColumns = 256;

int64_t as_int(DType dtype) { return static_cast<int64_t>(dtype); }

// Columns first .. first + count - 1 of rows that lie one behind the other, whole or turned.
struct Columns {
  const void* data;
  int64_t row_stride;
  int64_t first;
  int64_t count;
};

class SumByCode {
 public:
  SumByCode(const CodeGroups& groups, DType dtype, int64_t dim, const Parallel& parallel,
            const SumSink& sink)
      : groups_(groups),
        dtype_(dtype),
        sink_(sink),
        parallel_(parallel),
        add_rows_(code_sums(simd_level()).add_rows[as_int(dtype)]) {
    const bool small = (groups.num_rows + groups.num_codes) * dim < 2 * kLeastElements;
    parts_ = small ? 1 : std::max(1, parallel.num_threads);
    // A code that has a part's rows or more would keep its thread busy alone: every part takes some
    // columns of it.
    for (int64_t g = 0; parts_ > 1 && g < groups.num_groups; ++g) {
      if (groups.count(g) > groups.num_rows / parts_) heavy_.push_back(g);
    }
  }

  // The first columns: codes are cleared with them.
  void run(const Columns& z) const {
    parallel_.run(0, parts_, 1, [&](int64_t begin, int64_t end) {
      const DefaultFloatMode float_mode;
      for (int64_t part = begin; part < end; ++part) run_part(z, part);
    });
    if (heavy_.empty()) return;
    // Not before all codes were cleared.
    parallel_.run(0, parts_, 1, [&](int64_t begin, int64_t end) {
      const DefaultFloatMode float_mode;
      for (const int64_t g : heavy_) {
        take(z, g, g + 1, slice(z.count, begin), slice(z.count, end));
      }
    });
  }

  // Later columns than the first, on this thread.
  void run_alone(const Columns& z) const {
    const int64_t step = groups_at_once(z);
    for (int64_t g = 0; g < groups_.num_groups; g += step) {
      take(z, g, std::min(g + step, groups_.num_groups), 0, z.count);
    }
  }

 private:
  static int64_t groups_at_once(const Columns& z) {
    return std::max<int64_t>(1, kMostSums / std::min(z.count, kMostColumns));
  }

  // What groups before g cost: the codes written and the rows read.
  int64_t cost(int64_t g) const {
    if (g == groups_.num_groups) --g;
    int64_t rows = groups_.first[g];
    for (const int64_t h : heavy_) {
      if (h < g) rows -= groups_.count(h);
    }
    return rows + groups_.codes[g];
  }

  int64_t first_group(int64_t part) const {
    if (part == parts_) return groups_.num_groups;
    const int64_t wanted = cost(groups_.num_groups) * part / parts_;
    int64_t low = 0, high = groups_.num_groups;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (cost(middle) < wanted) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  // Where a part's columns begin: whole cache lines of what they are written to.
  int64_t slice(int64_t columns, int64_t part) const {
    constexpr int64_t kLine = 16;
    return part == parts_ ? columns : columns * part / parts_ / kLine * kLine;
  }

  // One behind the last code before group g.
  int64_t end_of_code(int64_t g) const { return g == 0 ? 0 : groups_.codes[g - 1] + 1; }

  // Clears the codes without rows before groups begin .. end - 1.
  void clear_gaps(int64_t begin, int64_t end) const {
    const int64_t first_code = end_of_code(begin), last_code = end_of_code(end);
    if (last_code - first_code == end - begin) return;
    // Many small gaps are dearer than all at once, near as they are when sums are written. Nor does
    // it pay to go past the caches: memory for results that exceed them is most often new, and the
    // system has just cleared its pages through the caches.
    sink_.clear(first_code, last_code);
  }

  void run_part(const Columns& z, int64_t part) const {
    const int64_t last = first_group(part + 1);
    const int64_t step = groups_at_once(z);
    for (int64_t g = first_group(part); g < last; g += step) {
      const int64_t end = std::min(g + step, last);
      clear_gaps(g, end);
      int64_t from = g;
      for (const int64_t h : heavy_) {
        if (h < g || h >= end) continue;
        take(z, from, h, 0, z.count);
        from = h + 1;
      }
      take(z, from, end, 0, z.count);
    }
    if (part + 1 == parts_) sink_.clear(end_of_code(groups_.num_groups), groups_.num_codes);
  }

  void take(const Columns& z, int64_t begin, int64_t end, int64_t first, int64_t last) const {
    alignas(64) double sums[kMostSums];
    for (int64_t column = first; begin < end && column < last; column += kMostColumns) {
      const int64_t count = std::min(kMostColumns, last - column);
      const char* data = static_cast<const char*>(z.data) + column * bytes_of(dtype_);
      add_rows_(data, z.row_stride, groups_.rows.get(), groups_.first.get() + begin, end - begin,
                count, sums);
      sink_.take(begin, end, z.first + column, count, sums);
    }
  }

  const CodeGroups& groups_;
  DType dtype_;
  const SumSink& sink_;
  const Parallel& parallel_;
  std::remove_reference_t<decltype(CodeSums::add_rows[0])> add_rows_;
  int64_t parts_;
  std::vector<int64_t> heavy_;
};

// Rows first .. last - 1: to[n * num_columns + c] = z[n][first_column + c]
void turn_columns(const Rows& z, int64_t first, int64_t last, int64_t first_column,
                  int64_t num_columns, char* to) {
  for (int64_t row = first; row < last;) {
    const int64_t count = std::min({kTileRows, last - row, rows_in_run(z, row)});
    if (row + count < last) prefetch_tile(z, row + count, first_column, num_columns);
    read_rows(z, {row, count, first_column, num_columns},
              to + row * num_columns * bytes_of(z.dtype));
    row += count;
  }
}

// For rows that do not lie one behind the other: they are copied to where they do, as many columns
// at a time as the cache holds.
void sum_turned(const SumByCode& sum, const Rows& z, int64_t num_rows, int64_t dim,
                const Parallel& parallel) {
  constexpr int64_t kTurnedBytes = int64_t{4} << 20;
  constexpr int64_t kLeastColumns = 16, kMostTurned = 64;
  const int64_t threads = std::max(1, parallel.num_threads);
  const int64_t column_bytes = num_rows * bytes_of(z.dtype);
  const int64_t fitting = kTurnedBytes / (threads * column_bytes) / kLeastColumns * kLeastColumns;
  const int64_t columns = std::min(dim, std::clamp(fitting, kLeastColumns, kMostTurned));
  const auto allocate = [&] {
    return std::unique_ptr<char, FreeMemory>(
        static_cast<char*>(allocate_aligned(columns * column_bytes)));
  };
  {
    const auto turned = allocate();
    const int64_t num_blocks = (num_rows + kTileRows - 1) / kTileRows;
    const int64_t grain = std::max<int64_t>(1, kLeastElements / (kTileRows * columns));
    parallel.run(0, num_blocks, grain, [&](int64_t begin, int64_t end) {
      turn_columns(z, begin * kTileRows, std::min(end * kTileRows, num_rows), 0, columns,
                   turned.get());
    });
    sum.run({turned.get(), columns, 0, columns});
  }
  // All codes are cleared by now: no thread waits for another any more.
  const int64_t num_chunks = (dim + columns - 1) / columns;
  const int64_t grain = std::max<int64_t>(1, kLeastElements / (num_rows * columns));
  parallel.run(1, num_chunks, grain, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    const auto turned = allocate();
    for (int64_t column = begin * columns; column < std::min(end * columns, dim);
         column += columns) {
      const int64_t count = std::min(columns, dim - column);
      turn_columns(z, 0, num_rows, column, count, turned.get());
      sum.run_alone({turned.get(), count, column, count});
    }
  });
}

}  // namespace

void sum_rows_by_code(const CodeGroups& groups, const Rows& z, int64_t dim,
                      const Parallel& parallel, const SumSink& sink) {
  if (groups.num_groups == 0) return sink.clear(0, groups.num_codes);
  const SumByCode sum(groups, z.dtype, dim, parallel, sink);
  if (z.element_stride == 1 && z.inner_rows >= groups.num_rows) {
    return sum.run({z.data, z.inner_stride, 0, dim});
  }
  sum_turned(sum, z, groups.num_rows, dim, parallel);
}

void clear_rows(const Rows& rows, int64_t begin, int64_t end, int64_t dim) {
  if (rows.element_stride == 1 && rows.inner_stride == dim && end <= rows.inner_rows) {
    char* first = const_cast<char*>(element_at(rows, rows.offset(begin)));
    std::memset(first, 0, (end - begin) * dim * bytes_of(rows.dtype));
    return;
  }
  constexpr int64_t kZeros = 64;
  const double zeros[kZeros] = {};
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t column = 0; column < dim; column += kZeros) {
      store_columns(rows, row, column, std::min(kZeros, dim - column), zeros);
    }
  }
}

void codebook_stats(const Rows& z, const int64_t* indices, int64_t num_rows, int64_t num_codes,
                    int64_t dim, int64_t* counts, DType sums_dtype, void* sums,
                    const Parallel& parallel) {
  const CodeGroups groups = group_codes(indices, num_rows, num_codes, counts);
  const auto store = code_sums(simd_level()).store_sums[as_int(sums_dtype)];
  SumSink sink;
  sink.take = [&](int64_t first_group, int64_t last_group, int64_t first_column,
                  int64_t num_columns, const double* sum) {
    char* out = static_cast<char*>(sums) + first_column * bytes_of(sums_dtype);
    store(sum, groups.codes.get() + first_group, last_group - first_group, num_columns, out, dim);
  };
  const Rows out = contiguous_rows(sums, sums_dtype, num_codes, dim);
  sink.clear = [&](int64_t first_code, int64_t last_code) {
    clear_rows(out, first_code, last_code, dim);
  };
  sum_rows_by_code(groups, z, dim, parallel, sink);
}

}  // namespace vqgan_fast
