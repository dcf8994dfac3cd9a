// Moves blocks of rows between their place in memory, at any dtype and strides, and a contiguous
// block of doubles. fp16, bf16 and fp32 become doubles without loss, so no kernel behind this sees
// a dtype.
#pragma once

#include <cstdint>

#include "kernels/cpu/rows.h"

namespace vqgan_fast {

// block[r * dim + d] = rows[begin + r][d] for r < count.
void load_rows(const Rows& rows, int64_t begin, int64_t count, int64_t dim, double* block);

// rows[begin + r][d] = block[r * dim + d], rounded to the dtype of `rows` to nearest even (to a
// 16-bit type by way of fp32, as torch does). `rows.data` must be writable.
void store_rows(const Rows& rows, int64_t begin, int64_t count, int64_t dim, const double* block);

// The same for the columns first_column .. first_column + num_columns - 1 of one row.
void load_columns(const Rows& rows, int64_t row, int64_t first_column, int64_t num_columns,
                  double* out);
void store_columns(const Rows& rows, int64_t row, int64_t first_column, int64_t num_columns,
                   const double* in);

// Asks for those columns of a row to be brought near, for a reader that comes to it a little later.
void prefetch_columns(const Rows& rows, int64_t row, int64_t first_column, int64_t num_columns);

// Whether a row in a block holds no infinity and no NaN.
bool all_finite(const double* x, int64_t dim);

}  // namespace vqgan_fast
