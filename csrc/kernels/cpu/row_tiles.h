// Tiles of rows, copied between their place in memory, at any strides, and a packed buffer of the
// same type. A tile is small enough to stay in L1 while it is turned and used.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/row_loops.h"
#include "kernels/cpu/rows.h"

namespace vqgan_fast {

// Elements that are worth a thread.
constexpr int64_t kLeastElements = 16384;

constexpr int64_t kTileRows = 64;
constexpr int64_t kTileElements = 2048;
// Columns of a tile whose rows are not contiguous: whole cache lines of what it is written to or
// gathered from, beside a few whole lines of each column.
constexpr int64_t kFarTileColumns = kTileElements / kTileRows;

// All rows lie in one run of inner_rows.
struct Tile {
  int64_t first_row;
  int64_t num_rows;
  int64_t first_column;
  int64_t num_columns;
};

// One tile in its own type, packed.
struct TileBuffer {
  alignas(64) char bytes[kTileElements * sizeof(double)];
};

inline const char* element_at(const Rows& rows, int64_t offset) {
  return static_cast<const char*>(rows.data) + offset * bytes_of(rows.dtype);
}

// The first element of a tile.
inline char* tile_at(const Rows& rows, const Tile& tile) {
  return const_cast<char*>(
      element_at(rows, rows.offset(tile.first_row) + tile.first_column * rows.element_stride));
}

// Rows from `row` on that lie in the same run.
inline int64_t rows_in_run(const Rows& rows, int64_t row) {
  return rows.inner_rows - row % rows.inner_rows;
}

// Calls body(tile) on the tiles of rows begin .. end - 1; run_length(row) says how many rows from
// `row` on one tile may hold.
template <class RunLength, class Body>
void for_each_tile(int64_t begin, int64_t end, int64_t dim, int64_t most_columns,
                   const RunLength& run_length, const Body& body) {
  const int64_t columns = std::min(dim, most_columns);
  const int64_t most_rows = std::min(kTileRows, std::max<int64_t>(1, kTileElements / columns));
  for (int64_t row = begin; row < end;) {
    const int64_t num_rows = std::min(std::min(most_rows, end - row), run_length(row));
    for (int64_t column = 0; column < dim; column += columns) {
      body(Tile{row, num_rows, column, std::min(columns, dim - column)});
    }
    row += num_rows;
  }
}

// to[r * num_columns + c]
void read_rows(const Rows& rows, const Tile& tile, void* to);
// to[c * num_rows + r]
void read_columns(const Rows& rows, const Tile& tile, void* to);
// The inverse of read_rows.
void write_rows(const Rows& rows, const Tile& tile, const void* from);

// The same for the rows codebook[indices[r]]; tile.first_row has no meaning.
void gather_rows(const Rows& codebook, const int64_t* indices, const Tile& tile, void* to);
// Asks the memory for rows that are gathered later, elements side by side.
void ask_for_rows(const Rows& codebook, const int64_t* indices, int64_t num_rows,
                  int64_t num_columns);
void gather_columns(const Rows& codebook, const int64_t* indices, const Tile& tile, void* to);

}  // namespace vqgan_fast
