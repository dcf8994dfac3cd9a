#include "kernels/cpu/codebook_stats.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

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
// Elements read and written, or only cleared, that are worth a second thread: its start takes as
// long as these.
constexpr int64_t kLeastForThreads = 160 << 10;
constexpr int64_t kLeastCleared = 256 << 10;

int64_t as_int(DType dtype) { return static_cast<int64_t>(dtype); }

// For rows whose elements lie side by side: each code's rows are gathered.
class SumOfRows {
 public:
  SumOfRows(const CodeGroups& groups, const Rows& z, int64_t dim, const Parallel& parallel,
            const SumSink& sink)
      : groups_(groups),
        offsets_(offsets_of_groups(groups, z, parallel)),
        z_(z),
        dim_(dim),
        sink_(sink),
        parallel_(parallel),
        add_rows_(code_sums(simd_level()).add_rows[as_int(z.dtype)]) {
    const bool small = (groups.num_rows + groups.num_codes) * dim < kLeastForThreads;
    parts_ = small ? 1 : std::max(1, parallel.num_threads);
    // A code that has a part's rows or more would keep its thread busy alone: every part takes some
    // columns of it.
    for (int64_t g = 0; parts_ > 1 && g < groups.num_groups; ++g) {
      if (groups.count(g) > groups.num_rows / parts_) heavy_.push_back(g);
    }
  }

  void run() const {
    parallel_.run(0, parts_, 1, [&](int64_t begin, int64_t end) {
      const DefaultFloatMode float_mode;
      for (int64_t part = begin; part < end; ++part) run_part(part);
    });
    if (heavy_.empty()) return;
    // Not before all codes were cleared.
    parallel_.run(0, parts_, 1, [&](int64_t begin, int64_t end) {
      const DefaultFloatMode float_mode;
      for (const int64_t g : heavy_) take(g, g + 1, slice(begin), slice(end));
    });
  }

 private:
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
  int64_t slice(int64_t part) const {
    constexpr int64_t kLine = 16;
    return part == parts_ ? dim_ : dim_ * part / parts_ / kLine * kLine;
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

  void run_part(int64_t part) const {
    const int64_t last = first_group(part + 1);
    const int64_t step = std::max<int64_t>(1, kMostSums / std::min(dim_, kMostColumns));
    for (int64_t g = first_group(part); g < last; g += step) {
      const int64_t end = std::min(g + step, last);
      clear_gaps(g, end);
      int64_t from = g;
      for (const int64_t h : heavy_) {
        if (h < g || h >= end) continue;
        take(from, h, 0, dim_);
        from = h + 1;
      }
      take(from, end, 0, dim_);
    }
    if (part + 1 == parts_) sink_.clear(end_of_code(groups_.num_groups), groups_.num_codes);
  }

  void take(int64_t begin, int64_t end, int64_t first, int64_t last) const {
    alignas(64) double sums[kMostSums];
    for (int64_t column = first; begin < end && column < last; column += kMostColumns) {
      const int64_t count = std::min(kMostColumns, last - column);
      add_rows_(element_at(z_, column), offsets_.get(), groups_.first.get() + begin, end - begin,
                count, sums);
      sink_.take(begin, end, column, count, sums);
    }
  }

  const CodeGroups& groups_;
  std::unique_ptr<int64_t[]> offsets_;
  const Rows& z_;
  int64_t dim_;
  const SumSink& sink_;
  const Parallel& parallel_;
  std::remove_reference_t<decltype(CodeSums::add_rows[0])> add_rows_;
  int64_t parts_;
  std::vector<int64_t> heavy_;
};

// For columns whose elements lie side by side, and any other layout by way of a tile that does:
// some columns at a time are added to their codes' sums, row by row.
class SumOfColumns {
 public:
  SumOfColumns(const CodeGroups& groups, const Rows& z, int64_t dim, const Parallel& parallel,
               const SumSink& sink)
      : groups_(groups),
        group_(group_of_rows(groups, parallel)),
        z_(z),
        dim_(dim),
        sink_(sink),
        parallel_(parallel),
        add_(code_sums(simd_level()).add_columns[as_int(z.dtype)]) {}

  void run() const {
    const int64_t num_codes = groups_.num_codes;
    if (groups_.num_groups < num_codes) {
      parallel_.run(0, num_codes, std::max<int64_t>(1, kLeastCleared / dim_), sink_.clear);
    }
    const int64_t columns = columns_at_once();
    const int64_t num_parts = (dim_ + columns - 1) / columns;
    const int64_t grain = std::max<int64_t>(1, kLeastElements / (groups_.num_rows * columns));
    parallel_.run(0, num_parts, grain, [&](int64_t begin, int64_t end) {
      const DefaultFloatMode float_mode;
      const auto sums = allocate_array<double>(groups_.num_groups * columns);
      for (int64_t part = begin; part < end; ++part) {
        const int64_t column = part * columns;
        run_part(column, std::min(columns, dim_ - column), sums.get());
      }
    });
  }

 private:
  // Whole lines of the results, where the sums stay in the caches with that and there are columns
  // enough for the threads. Of 4 or fewer, one thread sums all: listing the codes takes about as
  // long, and cannot be shared out.
  int64_t columns_at_once() const {
    constexpr int64_t kMost = 16, kLeast = 4, kMostBytes = int64_t{1} << 22;
    const int64_t threads =
        groups_.num_rows * dim_ < 2 * kLeastElements ? 1 : parallel_.num_threads;
    int64_t columns = kMost;
    while (columns > kLeast &&
           (groups_.num_groups * columns * 8 > kMostBytes || columns * threads > dim_)) {
      columns /= 2;
    }
    return columns;
  }

  const char* first_of(int64_t row, int64_t column) const {
    return element_at(z_, z_.offset(row) + column * z_.element_stride);
  }

  // Of a part, as many columns at a time as have a line of sums in each code: more would leave the
  // nearer caches. The results are written in whole lines of theirs all the same.
  void run_part(int64_t column, int64_t columns, double* sums) const {
    for (int64_t c = 0; c < columns; c += CodeSums::kColumnsOfLine) {
      add_all_rows(column + c, std::min(CodeSums::kColumnsOfLine, columns - c),
                   sums + c * groups_.num_groups);
    }
    if (columns <= CodeSums::kColumnsOfLine) {
      return sink_.take(0, groups_.num_groups, column, columns, sums);
    }
    alignas(64) double side_by_side[kMostSums];
    const int64_t step = kMostSums / columns;
    for (int64_t g = 0; g < groups_.num_groups; g += step) {
      const int64_t count = std::min(step, groups_.num_groups - g);
      for (int64_t c = 0; c < columns; c += CodeSums::kColumnsOfLine) {
        const int64_t some = std::min(CodeSums::kColumnsOfLine, columns - c);
        const double* from = sums + c * groups_.num_groups + g * some;
        for (int64_t i = 0; i < count; ++i) {
          double* to = side_by_side + i * columns + c;
          // Of a number that the compiler knows: no call.
          if (some == CodeSums::kColumnsOfLine) {
            std::copy_n(from + i * CodeSums::kColumnsOfLine, CodeSums::kColumnsOfLine, to);
          } else {
            std::copy_n(from + i * some, some, to);
          }
        }
      }
      sink_.take(g, g + count, column, columns, side_by_side);
    }
  }

  void add_all_rows(int64_t column, int64_t columns, double* sums) const {
    std::fill_n(sums, groups_.num_groups * columns, 0.0);
    TileBuffer buffer;
    for (int64_t row = 0; row < groups_.num_rows;) {
      const int64_t count = std::min({kTileRows, groups_.num_rows - row, rows_in_run(z_, row)});
      const int32_t* group = group_.get() + row;
      if (z_.inner_stride == 1) {
        add_(first_of(row, column), z_.element_stride, wanted_after(row, column, columns), group,
             count, columns, sums);
      } else {
        read_columns(z_, {row, count, column, columns}, buffer.bytes);
        add_(buffer.bytes, count, buffer.bytes, group, count, columns, sums);
      }
      row += count;
    }
  }

  // What to ask for beside a tile, as the memory takes longer to answer than a tile takes: a later
  // one, of these columns or the next.
  const char* wanted_after(int64_t row, int64_t column, int64_t columns) const {
    const int64_t later = row + 4 * kTileRows, num_rows = groups_.num_rows;
    if (later < num_rows) return first_of(later, column);
    if (column + 2 * columns > dim_) return first_of(row, column);
    return first_of(std::min(later - num_rows, num_rows - 1), column + columns);
  }

  const CodeGroups& groups_;
  std::unique_ptr<int32_t[]> group_;
  const Rows& z_;
  int64_t dim_;
  const SumSink& sink_;
  const Parallel& parallel_;
  std::remove_reference_t<decltype(CodeSums::add_columns[0])> add_;
};

}  // namespace

void sum_rows_by_code(const CodeGroups& groups, const Rows& z, int64_t dim,
                      const Parallel& parallel, const SumSink& sink) {
  if (groups.num_groups == 0) return sink.clear(0, groups.num_codes);
  if (z.element_stride == 1) {
    return SumOfRows(groups, z, dim, parallel, sink).run();
  }
  SumOfColumns(groups, z, dim, parallel, sink).run();
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
  const CodeGroups groups = group_codes(indices, num_rows, num_codes, counts, parallel);
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
