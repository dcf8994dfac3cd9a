#include "kernels/cpu/codebook_stats.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/row_block.h"
#include "kernels/cpu/row_loops.h"
#include "kernels/cpu/row_tiles.h"

namespace vqgan_fast {
namespace {

// The rows of a code lie anywhere in z, so that no hardware foresees the next one.
constexpr int64_t kRowsAhead = 8;
// Sums that are open at a time while rows come in their own order: they should stay in L2.
constexpr int64_t kOpenSums = 65536;
// Columns that are summed together then, at most: two cache lines of sums for each row.
constexpr int64_t kOpenColumns = 16;
// And at least: fewer would go through all rows and codes too often.
constexpr int64_t kLeastOpenColumns = 4;

int64_t as_int(DType dtype) { return static_cast<int64_t>(dtype); }

// Groups whose codes are cleared together before their sums are taken: what they are written to
// should still be in the cache then.
constexpr int64_t kGroupsAtOnce = 32;

// Clears the codes without rows before groups begin .. end - 1, one of which is the end of all
// codes.
void clear_gaps(const CodeGroups& groups, int64_t begin, int64_t end, const SumSink& sink) {
  const auto code = [&](int64_t g) {
    return g < 0 ? -1 : g < groups.size() ? groups.codes[g] : groups.num_codes;
  };
  const int64_t first = code(begin - 1) + 1, last = code(end - 1);
  // Many small gaps are dearer than all at once.
  if (last - first > 2 * (end - begin)) return sink.clear(first, last);
  for (int64_t g = begin; g < end; ++g) {
    if (code(g - 1) + 1 < code(g)) sink.clear(code(g - 1) + 1, code(g));
  }
}

// --- Rows sorted by code: each code's rows are added up and done with
// ------------------------------

// The rows of each group in ascending order: rows[first[g]] .. rows[first[g + 1] - 1].
std::vector<int64_t> sorted_rows(const CodeGroups& groups) {
  const int64_t num_rows = static_cast<int64_t>(groups.group.size());
  std::vector<int64_t> next(groups.first.begin(), groups.first.end() - 1);
  std::vector<int64_t> rows(num_rows);
  for (int64_t n = 0; n < num_rows; ++n) rows[next[groups.group[n]]++] = n;
  return rows;
}

class SortedSum {
 public:
  SortedSum(const CodeGroups& groups, const Rows& z, const RowLoops& loops, const SumSink& sink)
      : groups_(groups), z_(z), loops_(loops), sink_(sink), rows_(sorted_rows(groups)) {}

  void run(int64_t g, int64_t first_column, int64_t last_column) const {
    const auto add_row = loops_.add_row[as_int(z_.dtype)];
    const int64_t num_rows = static_cast<int64_t>(rows_.size());
    const int64_t begin = groups_.first[g], end = groups_.first[g + 1];
    double sums[kMostColumns];
    for (int64_t column = first_column; column < last_column; column += kMostColumns) {
      const int64_t num_columns = std::min(kMostColumns, last_column - column);
      for (int64_t i = begin; i < end; ++i) {
        if (i + kRowsAhead < num_rows) {
          prefetch_columns(z_, rows_[i + kRowsAhead], column, num_columns);
        }
        add_row(element_at(z_, z_.offset(rows_[i]) + column), num_columns, i == begin, sums);
      }
      sink_.take(g, g + 1, column, num_columns, sums);
    }
  }

 private:
  const CodeGroups& groups_;
  const Rows& z_;
  const RowLoops& loops_;
  const SumSink& sink_;
  std::vector<int64_t> rows_;
};

void sum_sorted(const CodeGroups& groups, const Rows& z, int64_t dim, const RowLoops& loops,
                const Parallel& parallel, const SumSink& sink) {
  const SortedSum sum(groups, z, loops, sink);
  const int64_t num_groups = groups.size();
  const int64_t num_rows = static_cast<int64_t>(groups.group.size());
  const bool small = (num_rows + groups.num_codes) * dim < 2 * kLeastElements;
  const int64_t parts = small ? 1 : std::max(1, parallel.num_threads);
  // A code that has a part's rows or more would keep its thread busy alone: every part takes some
  // columns of it.
  const auto is_heavy = [&](int64_t g) { return parts > 1 && groups.count(g) > num_rows / parts; };
  std::vector<int64_t> heavy;
  // What a group costs: the rows read and the codes written.
  std::vector<int64_t> cost(num_groups + 1, 0);
  for (int64_t g = 0; g < num_groups; ++g) {
    const int64_t gap = groups.codes[g] - (g > 0 ? groups.codes[g - 1] : -1);
    if (is_heavy(g)) heavy.push_back(g);
    cost[g + 1] = cost[g] + gap + (is_heavy(g) ? 0 : groups.count(g));
  }
  const auto first_group = [&](int64_t part) {
    if (part == 0) return int64_t{0};
    if (part == parts) return num_groups;
    return std::lower_bound(cost.begin(), cost.end(), cost[num_groups] * part / parts) -
           cost.begin();
  };
  parallel.run(0, parts, 1, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    for (int64_t part = begin; part < end; ++part) {
      const int64_t last = first_group(part + 1);
      for (int64_t g = first_group(part); g < last; g += kGroupsAtOnce) {
        const int64_t end_group = std::min(g + kGroupsAtOnce, last);
        clear_gaps(groups, g, end_group, sink);
        for (int64_t i = g; i < end_group; ++i) {
          if (!is_heavy(i)) sum.run(i, 0, dim);
        }
      }
      if (part + 1 == parts) clear_gaps(groups, num_groups, num_groups + 1, sink);
    }
  });
  if (heavy.empty()) return;
  // Not before all codes were cleared.
  parallel.run(0, parts, 1, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    for (const int64_t g : heavy) sum.run(g, dim * begin / parts, dim * end / parts);
  });
}

// --- Rows in their own order: the sums of all codes are open, for a few columns at a time
// ----------

// Sums that no cache line is shared by.
class AlignedSums {
 public:
  explicit AlignedSums(int64_t size) : memory_(size + kLine) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    begin_ = memory_.data() + (64 - address % 64) % 64 / sizeof(double);
  }
  double* data() { return begin_; }

 private:
  static constexpr int64_t kLine = 64 / sizeof(double);
  std::vector<double> memory_;
  double* begin_;
};

// Adds all rows' columns to sums[group * num_columns + c].
void scatter_columns(const CodeGroups& groups, const Rows& z, int64_t first_column,
                     int64_t num_columns, const RowLoops& loops, double* sums) {
  const auto load = loops.load[as_int(z.dtype)];
  TileBuffer elements, doubles;
  auto* values = reinterpret_cast<double*>(doubles.bytes);
  const int64_t num_rows = static_cast<int64_t>(groups.group.size());
  const int64_t most_rows = std::min(kTileRows, kTileElements / num_columns);
  for (int64_t row = 0; row < num_rows;) {
    const Tile tile{row, std::min({most_rows, num_rows - row, rows_in_run(z, row)}), first_column,
                    num_columns};
    row += tile.num_rows;
    if (z.element_stride == 1 && z.inner_stride == num_columns) {
      load(tile_at(z, tile), tile.num_rows * num_columns, values);
    } else {
      read_rows(z, tile, elements.bytes);
      if (row < num_rows) prefetch_tile(z, row, first_column, num_columns);
      load(elements.bytes, tile.num_rows * num_columns, values);
    }
    loops.scatter_rows(values, groups.group.data() + tile.first_row, tile.num_rows, num_columns,
                       sums);
  }
}

void sum_scattered(const CodeGroups& groups, const Rows& z, int64_t dim, int64_t columns,
                   const RowLoops& loops, const Parallel& parallel, const SumSink& sink) {
  const int64_t num_groups = groups.size();
  const int64_t num_rows = static_cast<int64_t>(groups.group.size());
  const int64_t codes_per_group = groups.num_codes / num_groups + 1;
  parallel.run(0, num_groups + 1, std::max<int64_t>(1, kLeastElements / (codes_per_group * dim)),
               [&](int64_t begin, int64_t end) { clear_gaps(groups, begin, end, sink); });
  const int64_t num_chunks = (dim + columns - 1) / columns;
  const int64_t grain = std::max<int64_t>(1, kLeastElements / (num_rows * columns));
  parallel.run(0, num_chunks, grain, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    AlignedSums sums(num_groups * columns);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t column = chunk * columns;
      const int64_t num_columns = std::min(columns, dim - column);
      std::fill(sums.data(), sums.data() + num_groups * num_columns, 0.0);
      scatter_columns(groups, z, column, num_columns, loops, sums.data());
      sink.take(0, num_groups, column, num_columns, sums.data());
    }
  });
}

}  // namespace

int64_t find_bad_index(const int64_t* indices, int64_t num_rows, int64_t num_codes) {
  // A loop without an exit is one that the compiler vectorises.
  constexpr int64_t kBlock = 256;
  for (int64_t begin = 0; begin < num_rows; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, num_rows);
    bool bad = false;
    for (int64_t n = begin; n < end; ++n) {
      bad |= static_cast<uint64_t>(indices[n]) >= static_cast<uint64_t>(num_codes);
    }
    if (!bad) continue;
    for (int64_t n = begin; n < end; ++n) {
      if (indices[n] < 0 || indices[n] >= num_codes) return n;
    }
  }
  return -1;
}

CodeGroups group_codes(const int64_t* indices, int64_t num_rows, int64_t num_codes,
                       int64_t* counts) {
  CodeGroups groups;
  groups.num_codes = num_codes;
  // First how often each code occurs, then the number of its group.
  std::vector<int64_t> of_code(num_codes);
  for (int64_t n = 0; n < num_rows; ++n) ++of_code[indices[n]];
  if (counts != nullptr) std::copy(of_code.begin(), of_code.end(), counts);
  const int64_t most_groups = std::min(num_rows, num_codes);
  groups.codes.resize(most_groups + 1);
  groups.first.resize(most_groups + 2);
  int64_t num_groups = 0, row = 0;
  for (int64_t k = 0; k < num_codes; ++k) {
    const int64_t count = of_code[k];
    // Written without a branch: which codes are used is as good as random.
    groups.codes[num_groups] = k;
    groups.first[num_groups] = row;
    of_code[k] = num_groups;
    num_groups += count > 0;
    row += count;
  }
  groups.first[num_groups] = row;
  groups.codes.resize(num_groups);
  groups.first.resize(num_groups + 1);
  groups.group.resize(num_rows);
  for (int64_t n = 0; n < num_rows; ++n) groups.group[n] = of_code[indices[n]];
  return groups;
}

void sum_rows_by_code(const CodeGroups& groups, const Rows& z, int64_t dim,
                      const Parallel& parallel, const SumSink& sink) {
  const RowLoops& loops = row_loops(simd_level());
  if (groups.size() == 0) return sink.clear(0, groups.num_codes);
  int64_t columns = kOpenColumns;
  while (columns > kLeastOpenColumns && columns * groups.size() > kOpenSums) columns /= 2;
  const bool narrow = dim <= columns;
  if (z.element_stride == 1 && !narrow) {
    return sum_sorted(groups, z, dim, loops, parallel, sink);
  }
  sum_scattered(groups, z, dim, std::min(columns, dim), loops, parallel, sink);
}

void clear_rows(const Rows& rows, int64_t begin, int64_t end, int64_t dim) {
  if (rows.element_stride == 1 && rows.inner_stride == dim && end <= rows.inner_rows) {
    char* first = const_cast<char*>(element_at(rows, rows.offset(begin)));
    std::memset(first, 0, (end - begin) * dim * bytes_of(rows.dtype));
    return;
  }
  const double zeros[kMostColumns] = {};
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t column = 0; column < dim; column += kMostColumns) {
      store_columns(rows, row, column, std::min(kMostColumns, dim - column), zeros);
    }
  }
}

void codebook_stats(const Rows& z, const int64_t* indices, int64_t num_rows, int64_t num_codes,
                    int64_t dim, int64_t* counts, DType sums_dtype, void* sums,
                    const Parallel& parallel) {
  const CodeGroups groups = group_codes(indices, num_rows, num_codes, counts);
  const Rows out = contiguous_rows(sums, sums_dtype, num_codes, dim);
  const auto store = row_loops(simd_level()).store[as_int(sums_dtype)];
  SumSink sink;
  sink.take = [&](int64_t first_group, int64_t last_group, int64_t first_column,
                  int64_t num_columns, const double* sum) {
    const auto place = [&](int64_t g) {
      return const_cast<char*>(element_at(out, groups.codes[g] * dim + first_column));
    };
    for (int64_t g = first_group; g < last_group; ++g, sum += num_columns) {
      if (g + kGroupsAhead < last_group) __builtin_prefetch(place(g + kGroupsAhead), 1);
      store(sum, num_columns, place(g));
    }
  };
  sink.clear = [&](int64_t first_code, int64_t last_code) {
    clear_rows(out, first_code, last_code, dim);
  };
  sum_rows_by_code(groups, z, dim, parallel, sink);
}

}  // namespace vqgan_fast
