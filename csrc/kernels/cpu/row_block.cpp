#include "kernels/cpu/row_block.h"

#include <cstdint>

#include "kernels/cpu/element.h"
#include "kernels/cpu/row_loops.h"
#include "kernels/cpu/row_tiles.h"

namespace vqgan_fast {
namespace {

// Whether rows from `begin` on lie behind one another without a gap.
bool are_packed(const Rows& rows, int64_t begin, int64_t count, int64_t dim) {
  return rows.inner_stride == dim && count <= rows_in_run(rows, begin);
}

}  // namespace

void load_rows(const Rows& rows, int64_t begin, int64_t count, int64_t dim, double* block) {
  const auto load = row_loops().load[static_cast<int>(rows.dtype)];
  if (rows.element_stride == 1) {
    if (are_packed(rows, begin, count, dim)) {
      return load(element_at(rows, rows.offset(begin)), count * dim, block);
    }
    for (int64_t r = 0; r < count; ++r) {
      load(element_at(rows, rows.offset(begin + r)), dim, block + r * dim);
    }
  } else if (rows.inner_stride == 1 && count > 1) {
    TileBuffer buffer;
    const auto run_length = [&](int64_t row) { return rows_in_run(rows, row); };
    for_each_tile(begin, begin + count, dim, kFarTileColumns, run_length, [&](const Tile& tile) {
      read_rows(rows, tile, buffer.bytes);
      double* to = block + (tile.first_row - begin) * dim + tile.first_column;
      if (tile.num_columns == dim) return load(buffer.bytes, tile.num_rows * dim, to);
      const int64_t row_bytes = tile.num_columns * bytes_of(rows.dtype);
      for (int64_t r = 0; r < tile.num_rows; ++r) {
        load(buffer.bytes + r * row_bytes, tile.num_columns, to + r * dim);
      }
    });
  } else {
    for (int64_t r = 0; r < count; ++r) load_columns(rows, begin + r, 0, dim, block + r * dim);
  }
}

void store_rows(const Rows& rows, int64_t begin, int64_t count, int64_t dim, const double* block) {
  for (int64_t r = 0; r < count; ++r) store_columns(rows, begin + r, 0, dim, block + r * dim);
}

void load_columns(const Rows& rows, int64_t row, int64_t first_column, int64_t num_columns,
                  double* out) {
  const int64_t stride = rows.element_stride;
  const char* place = element_at(rows, rows.offset(row) + first_column * stride);
  if (stride == 1) return row_loops().load[static_cast<int>(rows.dtype)](place, num_columns, out);
  with_element(rows.dtype, [&](auto element) {
    using E = decltype(element);
    const auto* from = reinterpret_cast<const typename E::Storage*>(place);
    for (int64_t d = 0; d < num_columns; ++d) out[d] = E::load(from[d * stride]);
  });
}

void store_columns(const Rows& rows, int64_t row, int64_t first_column, int64_t num_columns,
                   const double* in) {
  const int64_t stride = rows.element_stride;
  char* place = const_cast<char*>(element_at(rows, rows.offset(row) + first_column * stride));
  if (stride == 1) return row_loops().store[static_cast<int>(rows.dtype)](in, num_columns, place);
  with_element(rows.dtype, [&](auto element) {
    using E = decltype(element);
    auto* to = reinterpret_cast<typename E::Storage*>(place);
    for (int64_t d = 0; d < num_columns; ++d) to[d * stride] = E::store(in[d]);
  });
}

void prefetch_columns(const Rows& rows, int64_t row, int64_t first_column, int64_t num_columns) {
  const int64_t bytes = bytes_of(rows.dtype);
  const int64_t stride = rows.element_stride;
  const char* from = element_at(rows, rows.offset(row) + first_column * stride);
  const int64_t step = stride == 1 ? 64 / bytes : 1;
  for (int64_t d = 0; d < num_columns; d += step) __builtin_prefetch(from + d * stride * bytes);
}

bool all_finite(const double* x, int64_t dim) {
  // One infinity or NaN among the products makes the sum a NaN. Four sums, because each waits for
  // its last addition.
  double acc[4] = {};
  int64_t d = 0;
  for (; d + 4 <= dim; d += 4) {
    for (int i = 0; i < 4; ++i) acc[i] += x[d + i] * 0.0;
  }
  for (; d < dim; ++d) acc[0] += x[d] * 0.0;
  return (acc[0] + acc[1]) + (acc[2] + acc[3]) == 0.0;
}

}  // namespace vqgan_fast
