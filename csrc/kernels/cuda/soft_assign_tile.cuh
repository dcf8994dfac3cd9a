// What the kernels of soft_assign share: a block owns 32 rows, four a warp, and 32 columns pass by
// at a time, one a lane. Templates over float and double.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/tiling.h"

namespace vqgan_fast {
namespace cuda {
namespace {

constexpr int kSoftThreads = 256;
constexpr int kSoftWarps = kSoftThreads / 32;
constexpr int kSoftWarpRows = 4;
constexpr int kSoftRows = kSoftWarps * kSoftWarpRows;
constexpr int kSoftColumns = 32;
constexpr int kSoftDepth = 32;  // elements of the rows that lie in shared memory at a time
// A block sums 32 times as many columns of the result; as many as fit its registers.
template <class T>
constexpr int kSoftChunks = sizeof(T) == sizeof(float) ? 8 : 4;
inline int64_t soft_block_columns(bool fp64) {
  return 32 * (fp64 ? kSoftChunks<double> : kSoftChunks<float>);
}
constexpr unsigned kAllLanes = 0xffffffffu;

template <class T>
__device__ T load_as(const Rows& rows, int64_t row, int64_t column) {
  const int64_t offset = row_offset(rows, row) + column * rows.element_stride;
  switch (rows.dtype) {
    case DType::kFloat32:
      return static_cast<T>(static_cast<const float*>(rows.data)[offset]);
    case DType::kBFloat16:
      return static_cast<T>(load_bfloat16(static_cast<const uint16_t*>(rows.data)[offset]));
    default:
      return static_cast<T>(load_element(rows.data, rows.dtype, offset));
  }
}

__device__ inline double load_number(const Rows& rows, int64_t row) {
  return load_element(rows.data, rows.dtype, row_offset(rows, row));
}

__device__ inline void store_number(const Rows& rows, int64_t row, int64_t column, double value) {
  store_element(const_cast<void*>(rows.data), rows.dtype,
                row_offset(rows, row) + column * rows.element_stride, value);
}

template <class T>
struct SoftTile {
  T own[kSoftDepth][kSoftRows];
  T other[kSoftDepth][kSoftColumns + 1];
  T weights[kSoftWarps][kSoftColumns][kSoftWarpRows];
};

// products[r] = own row r of the warp times the lane's column, first_column on; d ascending. Rows
// and columns that are not there count as zeros.
template <class T>
__device__ void multiply_tile(SoftTile<T>& tile, const Rows& own, int64_t first_row,
                              int64_t num_rows, const Rows& other, int64_t first_column,
                              int64_t num_columns, int64_t dim, T products[kSoftWarpRows]) {
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
#pragma unroll
  for (int r = 0; r < kSoftWarpRows; ++r) products[r] = 0;
  for (int64_t start = 0; start < dim; start += kSoftDepth) {
    __syncthreads();  // until everyone has read what lay there
#pragma unroll 1
    for (int i = thread; i < kSoftDepth * 32; i += kSoftThreads) {
      // Neighbouring threads read what lies side by side.
      const int own_d = own.element_stride == 1 ? i % 32 : i / 32;
      const int own_r = own.element_stride == 1 ? i / 32 : i % 32;
      const bool own_there = start + own_d < dim && first_row + own_r < num_rows;
      tile.own[own_d][own_r] = own_there ? load_as<T>(own, first_row + own_r, start + own_d) : T(0);
      const int other_d = other.element_stride == 1 ? i % 32 : i / 32;
      const int other_r = other.element_stride == 1 ? i / 32 : i % 32;
      const bool other_there = start + other_d < dim && first_column + other_r < num_columns;
      tile.other[other_d][other_r] =
          other_there ? load_as<T>(other, first_column + other_r, start + other_d) : T(0);
    }
    __syncthreads();
#pragma unroll 8
    for (int d = 0; d < kSoftDepth; ++d) {
      const T element = tile.other[d][lane];
#pragma unroll
      for (int r = 0; r < kSoftWarpRows; ++r) {
        products[r] = fma(tile.own[d][warp * kSoftWarpRows + r], element, products[r]);
      }
    }
  }
}

// sums[c][r] += sum over the tile's columns j of weights[r] of lane j times
// rows[first + j][first_element + 32 c + lane].
template <class T>
__device__ void add_product(SoftTile<T>& tile, const T weights[kSoftWarpRows], const Rows& rows,
                            int64_t first, int64_t count, int64_t first_element, int64_t dim,
                            T sums[kSoftChunks<T>][kSoftWarpRows]) {
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
#pragma unroll
  for (int r = 0; r < kSoftWarpRows; ++r) tile.weights[warp][lane][r] = weights[r];
#pragma unroll
  for (int c = 0; c < kSoftChunks<T>; ++c) {
    const int64_t start = first_element + 32 * c;
    if (start >= dim) continue;
    __syncthreads();  // until everyone has read what lay there
#pragma unroll 1
    for (int i = thread; i < kSoftColumns * 32; i += kSoftThreads) {
      const int d = rows.element_stride == 1 ? i % 32 : i / 32;
      const int j = rows.element_stride == 1 ? i / 32 : i % 32;
      const bool there = start + d < dim && first + j < count;
      tile.other[j][d] = there ? load_as<T>(rows, first + j, start + d) : T(0);
    }
    __syncthreads();
    // A tile's sum apart, so that few numbers are added to one that has grown large.
    T part[kSoftWarpRows] = {};
#pragma unroll 8
    for (int j = 0; j < kSoftColumns; ++j) {
      const T value = tile.other[j][lane];
#pragma unroll
      for (int r = 0; r < kSoftWarpRows; ++r) {
        part[r] = fma(tile.weights[warp][j][r], value, part[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < kSoftWarpRows; ++r) sums[c][r] += part[r];
  }
}

template <class T>
__device__ T warp_sum(T value) {
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(kAllLanes, value, mask);
  return value;
}

// The Gumbel noise of a latent and a code: docs/soft_assign.md.
template <class T>
__device__ T gumbel_noise(uint64_t seed, int64_t row, int64_t code) {
  uint32_t c0 = static_cast<uint32_t>(code / 4), c1 = static_cast<uint32_t>(row);
  uint32_t c2 = static_cast<uint32_t>(row >> 32), c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll 1
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(c0) * 0xD2511F53u;
    const uint64_t product1 = static_cast<uint64_t>(c2) * 0xCD9E8D57u;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(product0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const int word = static_cast<int>(code % 4);
  const uint32_t x = word == 0 ? c0 : word == 1 ? c1 : word == 2 ? c2 : c3;
  // Close to 1 the distance to it counts, which u itself is too coarse for in fp32.
  const T u = fma(static_cast<T>(x), T(0x1p-32), T(0x1p-33));
  const T distance = fma(static_cast<T>(~x), T(0x1p-32), T(0x1p-33));
  return -log(u > T(0.5) ? -log1p(-distance) : -log(u));
}

}  // namespace
}  // namespace cuda
}  // namespace vqgan_fast
