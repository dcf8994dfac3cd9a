// Sum of the rows of one code by a warp, four columns to each lane: device code that
// codebook_stats.cu and vector_quantize.cu share.
#pragma once

#include <cstdint>

#include "kernels/cuda/code_order.cuh"
#include "kernels/cuda/definition.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tiling.h"

namespace vqgan_fast {
namespace cuda {

constexpr int kLaneColumns = 4;
constexpr int kSumColumns = 32 * kLaneColumns;  // columns of a warp
constexpr int kSumWarps = 8;                    // of a block, a code each
constexpr int kSumThreads = 32 * kSumWarps;

// T is what an element lies in: float, double, or uint16_t for both types of 16 bits. Elements are
// loaded as they are and converted as they are added, so that no load waits for another.
template <class T>
struct alignas(kLaneColumns * sizeof(T)) Four {
  T x[kLaneColumns];
};

__device__ inline double number_of(float x, DType) { return x; }
__device__ inline double number_of(double x, DType) { return x; }
__device__ inline double number_of(uint16_t x, DType dtype) {
  return dtype == DType::kBFloat16 ? load_bfloat16(x) : load_float16(x);
}

// The warp's code, which may be behind the last, and the lane's first column, alike.
struct SumPlace {
  int64_t code;
  int64_t column;
  __device__ SumPlace()
      : code(static_cast<int64_t>(blockIdx.x) * kSumWarps + threadIdx.x / 32),
        column(static_cast<int64_t>(blockIdx.y) * kSumColumns + threadIdx.x % 32 * kLaneColumns) {}
};

// See code_sum. kFours: each lane has four columns or none, which one load takes.
template <class T, bool kFours>
__device__ void add_rows(const Rows& z, const CodeOrder& rows, const SumPlace& at, int64_t dim,
                         double (&sums)[kLaneColumns]) {
  constexpr unsigned kAllLanes = 0xffffffffu;
  constexpr int kRows = kFours ? 8 : 4;  // that are on their way at a time
  const int lane = threadIdx.x % 32;
  const int64_t columns = dim - at.column;
  const int64_t end = rows.starts[at.code + 1];
  for (int64_t first = rows.starts[at.code]; first < end; first += kRows) {
    const int count = end - first < kRows ? static_cast<int>(end - first) : kRows;
    const int64_t own = lane < count ? row_offset(z, rows.order[first + lane]) : 0;
    Four<T> values[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const T* data = static_cast<const T*>(z.data) + __shfl_sync(kAllLanes, own, i) +
                      at.column * z.element_stride;
      if constexpr (kFours) {
        if (i < count && columns > 0) values[i] = *reinterpret_cast<const Four<T>*>(data);
      } else {
#pragma unroll
        for (int c = 0; c < kLaneColumns; ++c) {
          if (i < count && c < columns) values[i].x[c] = data[c * z.element_stride];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int c = 0; c < kLaneColumns; ++c) {
        if (i < count && c < columns) sums[c] += number_of(values[i].x[c], z.dtype);
      }
    }
  }
}

// sums[c] = the sum of z's column at.column + c over the rows of the code, for columns that exist:
// in fp64 and in ascending order of the rows, so that it is the CPU's to the bit. Several rows
// are on their way before any is added. All lanes of a warp must call this.
template <class T>
__device__ void code_sum(const Rows& z, const CodeOrder& rows, const SumPlace& at, int64_t dim,
                         bool fours, double (&sums)[kLaneColumns]) {
#pragma unroll
  for (int c = 0; c < kLaneColumns; ++c) sums[c] = 0.0;
  constexpr bool kMayBeFours = sizeof(T) < sizeof(double);
  if (kMayBeFours && fours) {
    add_rows<T, kMayBeFours>(z, rows, at, dim, sums);
  } else {
    add_rows<T, false>(z, rows, at, dim, sums);
  }
}

// Launches that of `kernels` (of float, uint16_t, double) which is for z: a warp for each code and
// kSumColumns columns. It takes `args` and whether fours are allowed.
template <class Args>
cudaError_t launch_code_sums(void (*const (&kernels)[3])(Args, bool), const Rows& z,
                             int64_t num_codes, int64_t dim, cudaStream_t stream,
                             const Args& args) {
  const int which = z.dtype == DType::kFloat32 ? 0 : z.dtype == DType::kFloat64 ? 2 : 1;
  return launch(kernels[which], ceil_div(num_codes, kSumWarps), ceil_div(dim, kSumColumns),
                kSumThreads, stream, args, dim % kLaneColumns == 0 && fours_allowed(z));
}

}  // namespace cuda
}  // namespace vqgan_fast
