// The rows of a matrix as they lie in memory, for kernels that see no tensor.
#pragma once

#include <cstdint>
#include <optional>

namespace vqgan_fast {

enum class DType { kFloat32, kFloat64, kBFloat16, kFloat16 };

// The type in which torch evaluates an expression of the two.
inline DType promoted(DType a, DType b) {
  if (a == b) return a;
  return a == DType::kFloat64 || b == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

// Row n begins (n / inner_rows) * outer_stride + (n % inner_rows) * inner_stride elements behind
// `data`, and its elements lie element_stride apart. Two levels of rows are what a (B, D, H, W)
// tensor needs to be read in place as B * H * W rows: inner_rows = H * W, outer_stride = D * H * W,
// inner_stride = 1, element_stride = H * W. Strides count elements.
struct Rows {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t inner_rows = 1;
  int64_t outer_stride = 0;
  int64_t inner_stride = 0;
  int64_t element_stride = 1;

  int64_t offset(int64_t row) const {
    // Of a matrix all rows lie in one run, and a division takes as long as a short row.
    if (row < inner_rows) return row * inner_stride;
    return row / inner_rows * outer_stride + row % inner_rows * inner_stride;
  }
};

// The rows of a C-contiguous matrix with `dim` columns.
inline Rows contiguous_rows(const void* data, DType dtype, int64_t num_rows, int64_t dim) {
  return Rows{data, dtype, num_rows > 0 ? num_rows : 1, 0, dim, 1};
}

// The rows of an array (..., dim), all axes but the last as one, if its strides allow two levels.
// Sizes and strides are those of its num_axes axes.
inline std::optional<Rows> rows_of_array(const void* data, DType dtype, int64_t num_axes,
                                         const int64_t* sizes, const int64_t* strides) {
  Rows rows;
  rows.data = data;
  rows.dtype = dtype;
  rows.element_stride = strides[num_axes - 1];
  int levels = 0;
  int64_t size = 1, stride = 0;  // of the level that grows, from the innermost axis outwards
  for (int64_t i = num_axes - 2; i >= 0; --i) {
    if (sizes[i] == 1) continue;
    if (levels > 0 && strides[i] == stride * size) {
      size *= sizes[i];
      continue;
    }
    if (levels == 1) {
      rows.inner_rows = size;
      rows.inner_stride = stride;
    }
    if (levels == 2) return std::nullopt;
    ++levels;
    size = sizes[i];
    stride = strides[i];
  }
  if (levels == 2) {
    rows.outer_stride = stride;
  } else {
    rows.inner_rows = size;
    rows.inner_stride = stride;
  }
  return rows;
}

}  // namespace vqgan_fast
