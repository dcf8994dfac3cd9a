// Sum of the rows of one code, one column to each lane of a warp: device code that
// codebook_stats.cu and vector_quantize.cu share.
#pragma once

#include <cstdint>

#include "kernels/cuda/code_order.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/tiling.h"

namespace vqgan_fast {
namespace cuda {

constexpr int kSumColumns = 32;  // columns of a block
constexpr int kSumLanes = 8;     // rows that are read at once
constexpr int kSumThreads = kSumColumns * kSumLanes;
constexpr int kSumRows = 32;  // rows in shared memory

// For the block (code, column block): the sum of z's column over the rows of the code, in the
// threads of lane 0 whose column exists. All lanes read; lane 0 alone adds, in fp64 and in
// ascending order of the rows, so that the sum is the CPU's to the bit. Every thread of the block
// must call this.
__device__ inline double code_sum(const Rows& z, const CodeOrder& rows, int64_t code,
                                  int64_t column, int64_t dim) {
  __shared__ double tile[kSumRows][kSumColumns];
  const int lane = threadIdx.x / kSumColumns;
  const int x = threadIdx.x % kSumColumns;
  const int64_t end = rows.starts[code + 1];
  double sum = 0.0;
  for (int64_t first = rows.starts[code]; first < end; first += kSumRows) {
    const int count = end - first < kSumRows ? static_cast<int>(end - first) : kSumRows;
    __syncthreads();  // lane 0 has added the last rows
    for (int i = lane; i < count && column < dim; i += kSumLanes) {
      const int64_t offset = row_offset(z, rows.order[first + i]);
      tile[i][x] = load_element(z.data, z.dtype, offset + column * z.element_stride);
    }
    __syncthreads();
    if (lane == 0) {
      for (int i = 0; i < count; ++i) sum += tile[i][x];
    }
  }
  return sum;
}

}  // namespace cuda
}  // namespace vqgan_fast
