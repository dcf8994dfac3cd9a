// Where things lie on the way to the nearest code: the fp16 images of rows and codes, the fragments
// of matrix instructions, the classes of codes that a record speaks of. Index arithmetic only, the
// same for host and device, so that it is tested without a GPU.
#pragma once

#include <cstdint>

#include "kernels/cuda/tiling.h"

namespace vqgan_fast {

// --- Images
//
// An image is cut into panels of rows. In a panel, the 8 fp16 of columns 8 u .. 8 u + 7 of a row
// are a unit of 16 bytes, and the units of one u lie side by side, row after row: 8 rows of a unit
// are the 128 contiguous bytes that ldmatrix reads without a bank conflict, and that wgmma calls a
// core matrix (its layout without swizzle). Any range of columns is one contiguous copy.

constexpr int kUnitColumns = 8;
constexpr int kUnitBytes = 16;
constexpr int kRowPanel = 64;    // rows of one wgmma
constexpr int kCodePanel = 128;  // its columns
constexpr int kDepthStep = 16;   // columns that one matrix instruction takes

// Up to this many columns, a vector is stored as the sum of two fp16 (high, low), and three blocks
// of columns multiply to high high + low high + high low.
constexpr int64_t kMaxSplitDim = 32;

VQGAN_FAST_HOST_DEVICE inline bool is_split(int64_t dim) { return dim <= kMaxSplitDim; }

// Columns of the image, padded with zeros.
VQGAN_FAST_HOST_DEVICE inline int image_depth(int64_t dim) {
  return static_cast<int>(ceil_div(is_split(dim) ? 3 * dim : dim, kDepthStep)) * kDepthStep;
}

// Place of unit u of a row in a panel of `panel_rows` rows, in bytes.
VQGAN_FAST_HOST_DEVICE inline int unit_offset(int panel_rows, int unit, int row) {
  return (unit * panel_rows + row) * kUnitBytes;
}

VQGAN_FAST_HOST_DEVICE inline int64_t row_panel_bytes(int depth) {
  return static_cast<int64_t>(depth) * kRowPanel * 2;
}

// A panel of codes ends with their half norms, fp32.
VQGAN_FAST_HOST_DEVICE inline int64_t code_columns_bytes(int depth) {
  return static_cast<int64_t>(depth) * kCodePanel * 2;
}
constexpr int kHalfNormBytes = kCodePanel * 4;
VQGAN_FAST_HOST_DEVICE inline int64_t code_panel_bytes(int depth) {
  return code_columns_bytes(depth) + kHalfNormBytes;
}

// --- Fragments
//
// Accumulators of mma.m16n8 and of wgmma.m64n128 alike: a warp holds 16 rows; its lane has, for
// each group j of 8 columns, four values, two columns of two rows.

VQGAN_FAST_HOST_DEVICE inline int fragment_row(int lane, int half) { return lane / 4 + 8 * half; }
VQGAN_FAST_HOST_DEVICE inline int fragment_column(int lane, int j, int b) {
  return 8 * j + 2 * (lane % 4) + b;
}
VQGAN_FAST_HOST_DEVICE inline int fragment_value(int j, int half, int b) {
  return 4 * j + 2 * half + b;
}

// The row of a panel, counted from its fragment's first, whose unit `lane` hands to ldmatrix.x4,
// and which of the two units of the step: matrices 0, 1 are rows 0-7, 8-15 of the first unit,
// matrices 2, 3 those of the second.
VQGAN_FAST_HOST_DEVICE inline int ldmatrix_row(int lane) { return lane % 16; }
VQGAN_FAST_HOST_DEVICE inline int ldmatrix_unit(int lane) { return lane / 16; }

// wgmma's description of an operand in shared memory, K-major without swizzle: the address of its
// first core matrix, the distance between core matrices that adjoin along columns (leading), and
// along rows (stride), in bytes. PTX ISA, "Matrix descriptor format".
VQGAN_FAST_HOST_DEVICE inline uint64_t matrix_descriptor(uint32_t address, uint32_t leading,
                                                         uint32_t stride) {
  const auto field = [](uint32_t bytes) { return static_cast<uint64_t>((bytes & 0x3ffffu) >> 4); };
  return field(address) | field(leading) << 16 | field(stride) << 32;
}
constexpr int kCoreMatrixBytes = 8 * kUnitBytes;

// --- Classes of codes
//
// A thread sees, in each tile of codes, those of its lane's columns. It cuts them into `groups`
// runs, and all threads of a row together so cut the tile into 4 * groups classes of class_size()
// codes. Of each class the smallest score of any tile is kept, and that tile's number.

struct ClassLayout {
  int tile_codes;  // a multiple of 8 groups
  int groups;
};

VQGAN_FAST_HOST_DEVICE inline int class_count(const ClassLayout& layout) {
  return 4 * layout.groups;
}
VQGAN_FAST_HOST_DEVICE inline int class_size(const ClassLayout& layout) {
  return layout.tile_codes / class_count(layout);
}
// Code i, ascending, of a class in a tile.
VQGAN_FAST_HOST_DEVICE inline int64_t class_code(const ClassLayout& layout, int64_t tile,
                                                 int class_index, int i) {
  const int columns = layout.tile_codes / (8 * layout.groups);  // groups of 8 columns
  return tile * layout.tile_codes +
         fragment_column(class_index % 4, class_index / 4 * columns + i / 2, i % 2);
}

// What the search left for one class of codes in one row.
struct ClassBest {
  float score;  // the smallest
  int tile;     // where
};

}  // namespace vqgan_fast
