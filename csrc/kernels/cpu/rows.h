// The rows of a matrix as they lie in memory, for kernels that see no tensor.
#pragma once

#include <cstdint>

namespace vqgan_fast {

enum class DType { kFloat32, kFloat64, kBFloat16, kFloat16 };

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
    return row / inner_rows * outer_stride + row % inner_rows * inner_stride;
  }
};

// The rows of a C-contiguous matrix with `dim` columns.
inline Rows contiguous_rows(const void* data, DType dtype, int64_t num_rows, int64_t dim) {
  return Rows{data, dtype, num_rows > 0 ? num_rows : 1, 0, dim, 1};
}

}  // namespace vqgan_fast
