// How many rows each code has, and the sum of them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"

namespace vqgan_fast {

// The rows of each code in ascending order: rows[first[k]] .. rows[first[k + 1] - 1].
struct RowsByCode {
  std::vector<int64_t> first;  // num_codes + 1
  std::vector<int64_t> rows;

  int64_t count(int64_t code) const { return first[code + 1] - first[code]; }
};

// The first row whose index is not in [0, num_codes), or -1.
int64_t find_bad_index(const int64_t* indices, int64_t num_rows, int64_t num_codes);

// A counting sort. Every index must be in [0, num_codes).
RowsByCode group_rows(const int64_t* indices, int64_t num_rows, int64_t num_codes);

// Columns that sum_rows_by_code hands over at a time, at most.
constexpr int64_t kMostColumns = 256;

// Calls take(code, first_column, num_columns, sums) until every column of every code was had, with
// sums[i] = the sum of z[n][first_column + i] over the rows n of the code, in fp64, n ascending.
// Calls come from many threads; each sum is one thread's, so that no number depends on how many
// there are.
using TakeSums = std::function<void(int64_t code, int64_t first_column, int64_t num_columns,
                                    const double* sums)>;
void sum_rows_by_code(const RowsByCode& groups, const Rows& z, int64_t dim,
                      const Parallel& parallel, const TakeSums& take);

// counts (num_codes) and sums (num_codes, dim), contiguous; sums_dtype is kFloat32 or kFloat64.
void codebook_stats(const Rows& z, const int64_t* indices, int64_t num_rows, int64_t num_codes,
                    int64_t dim, int64_t* counts, DType sums_dtype, void* sums,
                    const Parallel& parallel);

}  // namespace vqgan_fast
