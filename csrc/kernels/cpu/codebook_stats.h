// How many rows each code has, and the sum of them.
#pragma once

#include <cstdint>
#include <functional>

#include "kernels/cpu/code_groups.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"

namespace vqgan_fast {

// Takes sums, from many threads, until every column of every code was had.
struct SumSink {
  // Groups first_group .. last_group - 1: sums[i * num_columns + c] = the sum of
  // z[n][first_column + c] over the rows n of group first_group + i, in fp64, n ascending. Each sum
  // is one thread's, so that no number depends on how many there are.
  std::function<void(int64_t first_group, int64_t last_group, int64_t first_column,
                     int64_t num_columns, const double* sums)>
      take;
  // Codes first_code .. last_code - 1 have no rows, or are yet to be taken.
  std::function<void(int64_t first_code, int64_t last_code)> clear;
};
void sum_rows_by_code(const CodeGroups& groups, const Rows& z, int64_t dim,
                      const Parallel& parallel, const SumSink& sink);

// Fills rows begin .. end - 1 with 0.
void clear_rows(const Rows& rows, int64_t begin, int64_t end, int64_t dim);

// counts (num_codes) and sums (num_codes, dim), contiguous; sums_dtype is kFloat32 or kFloat64.
void codebook_stats(const Rows& z, const int64_t* indices, int64_t num_rows, int64_t num_codes,
                    int64_t dim, int64_t* counts, DType sums_dtype, void* sums,
                    const Parallel& parallel);

}  // namespace vqgan_fast
