#include "kernels/cpu/codebook_stats.h"

#include <algorithm>

#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/row_block.h"

namespace vqgan_fast {
namespace {

// Columns that are summed together. Where the elements of a row are neighbours, a few cache lines;
// where each lies on a line of its own, few enough for the lines of all rows to stay in a cache
// until their other elements are asked for.
constexpr int64_t kNeighbourColumns = kMostColumns;
constexpr int64_t kFarColumns = 16;
// The rows of a code lie anywhere in z, so that no hardware foresees the next one.
constexpr int64_t kRowsAhead = 4;
// Additions worth a thread.
constexpr int64_t kLeastWork = 16384;

}  // namespace

int64_t find_bad_index(const int64_t* indices, int64_t num_rows, int64_t num_codes) {
  for (int64_t n = 0; n < num_rows; ++n) {
    if (indices[n] < 0 || indices[n] >= num_codes) return n;
  }
  return -1;
}

RowsByCode group_rows(const int64_t* indices, int64_t num_rows, int64_t num_codes) {
  RowsByCode groups;
  groups.first.assign(num_codes + 1, 0);
  groups.rows.resize(num_rows);
  for (int64_t n = 0; n < num_rows; ++n) ++groups.first[indices[n] + 1];
  for (int64_t k = 0; k < num_codes; ++k) groups.first[k + 1] += groups.first[k];
  // first[k] serves as the place of the next row of code k, and so ends as first[k + 1].
  for (int64_t n = 0; n < num_rows; ++n) groups.rows[groups.first[indices[n]]++] = n;
  for (int64_t k = num_codes; k > 0; --k) groups.first[k] = groups.first[k - 1];
  groups.first[0] = 0;
  return groups;
}

void sum_rows_by_code(const RowsByCode& groups, const Rows& z, int64_t dim,
                      const Parallel& parallel, const TakeSums& take) {
  const int64_t num_codes = static_cast<int64_t>(groups.first.size()) - 1;
  const int64_t num_rows = groups.rows.size();
  const int64_t columns = z.element_stride == 1 ? kNeighbourColumns : kFarColumns;
  const int64_t num_chunks = (dim + columns - 1) / columns;
  const int64_t work = (num_rows / num_codes + 1) * std::min(columns, dim);
  const int64_t grain = std::max<int64_t>(1, kLeastWork / work);
  // Task t: code t % num_codes, chunk t / num_codes, so that a thread goes through the codes of a
  // chunk.
  parallel.run(0, num_chunks * num_codes, grain, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    double sums[kMostColumns];
    for (int64_t t = begin; t < end; ++t) {
      const int64_t code = t % num_codes;
      const int64_t first_column = t / num_codes * columns;
      const int64_t num_columns = std::min(columns, dim - first_column);
      std::fill(sums, sums + num_columns, 0.0);
      for (int64_t i = groups.first[code]; i < groups.first[code + 1]; ++i) {
        if (i + kRowsAhead < num_rows) {
          prefetch_columns(z, groups.rows[i + kRowsAhead], first_column, num_columns);
        }
        add_columns(z, groups.rows[i], first_column, num_columns, sums);
      }
      take(code, first_column, num_columns, sums);
    }
  });
}

void codebook_stats(const Rows& z, const int64_t* indices, int64_t num_rows, int64_t num_codes,
                    int64_t dim, int64_t* counts, DType sums_dtype, void* sums,
                    const Parallel& parallel) {
  const RowsByCode groups = group_rows(indices, num_rows, num_codes);
  for (int64_t k = 0; k < num_codes; ++k) counts[k] = groups.count(k);
  const Rows out = contiguous_rows(sums, sums_dtype, num_codes, dim);
  sum_rows_by_code(groups, z, dim, parallel,
                   [&](int64_t code, int64_t first_column, int64_t num_columns, const double* sum) {
                     store_columns(out, code, first_column, num_columns, sum);
                   });
}

}  // namespace vqgan_fast
