#include "kernels/cpu/row_tiles.h"

#include <cstdint>
#include <cstring>

#include "kernels/cpu/transpose.h"

namespace vqgan_fast {
namespace {

// Where the rows or the columns of a tile begin.
struct Lines {
  const void* begin[kTileRows];
};

Lines rows_of_tile(const Rows& rows, const Tile& tile) {
  Lines lines;
  const char* first = tile_at(rows, tile);
  const int64_t step = rows.inner_stride * bytes_of(rows.dtype);
  for (int64_t r = 0; r < tile.num_rows; ++r) lines.begin[r] = first + r * step;
  return lines;
}

Lines gathered_rows(const Rows& codebook, const int64_t* indices, const Tile& tile) {
  Lines lines;
  const int64_t column = tile.first_column * codebook.element_stride;
  for (int64_t r = 0; r < tile.num_rows; ++r) {
    lines.begin[r] = element_at(codebook, codebook.offset(indices[r]) + column);
  }
  return lines;
}

// One element of a size that is only known at run time; the others are the compiler's own.
template <int64_t kBytes>
void copy_strided(const void* from, int64_t from_step, int64_t n, void* to, int64_t to_step) {
  const auto* x = static_cast<const char*>(from);
  auto* y = static_cast<char*>(to);
  for (int64_t i = 0; i < n; ++i) std::memcpy(y + i * to_step, x + i * from_step, kBytes);
}

// to[i * to_stride] = from[i * from_stride]
void copy_elements(int64_t bytes, const void* from, int64_t from_stride, int64_t n, void* to,
                   int64_t to_stride) {
  switch (bytes) {
    case 2:
      return copy_strided<2>(from, from_stride * 2, n, to, to_stride * 2);
    case 4:
      return copy_strided<4>(from, from_stride * 4, n, to, to_stride * 4);
    default:
      return copy_strided<8>(from, from_stride * 8, n, to, to_stride * 8);
  }
}

template <int64_t kBytes>
void pack_short(const Lines& lines, int64_t num_lines, char* to) {
  for (int64_t i = 0; i < num_lines; ++i) std::memcpy(to + i * kBytes, lines.begin[i], kBytes);
}

// Packed rows of `bytes` each. A short row is one move or a few, not a call.
void pack(const Lines& lines, int64_t num_lines, int64_t bytes, void* result) {
  auto* to = static_cast<char*>(result);
  switch (bytes) {
    case 8:
      return pack_short<8>(lines, num_lines, to);
    case 16:
      return pack_short<16>(lines, num_lines, to);
    case 32:
      return pack_short<32>(lines, num_lines, to);
    case 64:
      return pack_short<64>(lines, num_lines, to);
    case 128:
      return pack_short<128>(lines, num_lines, to);
    default:
      for (int64_t i = 0; i < num_lines; ++i) std::memcpy(to + i * bytes, lines.begin[i], bytes);
  }
}

void pack_rows(const Rows& rows, const Lines& lines, const Tile& tile, void* to) {
  const int64_t bytes = bytes_of(rows.dtype);
  if (rows.element_stride == 1) return pack(lines, tile.num_rows, tile.num_columns * bytes, to);
  for (int64_t r = 0; r < tile.num_rows; ++r) {
    copy_elements(bytes, lines.begin[r], rows.element_stride, tile.num_columns,
                  static_cast<char*>(to) + r * tile.num_columns * bytes, 1);
  }
}

void pack_columns(const Rows& rows, const Lines& lines, const Tile& tile, void* to) {
  const int64_t bytes = bytes_of(rows.dtype);
  if (rows.element_stride == 1) {
    return transpose(bytes, lines.begin, tile.num_rows, tile.num_columns, to, tile.num_rows);
  }
  for (int64_t r = 0; r < tile.num_rows; ++r) {
    copy_elements(bytes, lines.begin[r], rows.element_stride, tile.num_columns,
                  static_cast<char*>(to) + r * bytes, tile.num_rows);
  }
}

}  // namespace

void read_rows(const Rows& rows, const Tile& tile, void* to) {
  if (rows.element_stride == 1 || rows.inner_stride != 1 || tile.num_rows == 1) {
    return pack_rows(rows, rows_of_tile(rows, tile), tile, to);
  }
  const int64_t bytes = bytes_of(rows.dtype);
  const char* first = tile_at(rows, tile);
  for (int64_t column = 0; column < tile.num_columns; column += kTileRows) {
    const int64_t count = std::min(kTileRows, tile.num_columns - column);
    Lines columns;
    for (int64_t c = 0; c < count; ++c) {
      columns.begin[c] = first + (column + c) * rows.element_stride * bytes;
    }
    transpose(bytes, columns.begin, count, tile.num_rows, static_cast<char*>(to) + column * bytes,
              tile.num_columns);
  }
}

void read_columns(const Rows& rows, const Tile& tile, void* to) {
  pack_columns(rows, rows_of_tile(rows, tile), tile, to);
}

void write_rows(const Rows& rows, const Tile& tile, const void* from) {
  const int64_t bytes = bytes_of(rows.dtype);
  char* first = tile_at(rows, tile);
  const auto row = [&](int64_t r) {
    return static_cast<const char*>(from) + r * tile.num_columns * bytes;
  };
  if (rows.element_stride != 1 && rows.inner_stride == 1 && tile.num_rows > 1) {
    Lines lines;
    for (int64_t r = 0; r < tile.num_rows; ++r) lines.begin[r] = row(r);
    return transpose(bytes, lines.begin, tile.num_rows, tile.num_columns, first,
                     rows.element_stride);
  }
  for (int64_t r = 0; r < tile.num_rows; ++r) {
    char* to = first + r * rows.inner_stride * bytes;
    if (rows.element_stride == 1) {
      std::memcpy(to, row(r), tile.num_columns * bytes);
    } else {
      copy_elements(bytes, row(r), 1, tile.num_columns, to, rows.element_stride);
    }
  }
}

void ask_for_rows(const Rows& codebook, const int64_t* indices, int64_t num_rows,
                  int64_t num_columns) {
  const int64_t bytes = num_columns * bytes_of(codebook.dtype);
  for (int64_t r = 0; r < num_rows; ++r) {
    const char* row = element_at(codebook, codebook.offset(indices[r]));
    for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(row + b, 0, 2);
  }
}

void gather_rows(const Rows& codebook, const int64_t* indices, const Tile& tile, void* to) {
  pack_rows(codebook, gathered_rows(codebook, indices, tile), tile, to);
}

void gather_columns(const Rows& codebook, const int64_t* indices, const Tile& tile, void* to) {
  pack_columns(codebook, gathered_rows(codebook, indices, tile), tile, to);
}

}  // namespace vqgan_fast
