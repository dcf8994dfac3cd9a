// What the kernels of soft_assign share: a block owns 32 rows, four a warp, and 32 columns pass by
// at a time, one a lane. Templates over float and double.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/soft_assign.cuh"
#include "kernels/cuda/tiling.h"
#include "kernels/philox.h"

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
// Whether the kernels of T are those for wide logits.
template <class T>
constexpr bool is_wide = sizeof(T) == sizeof(double);
constexpr unsigned kAllLanes = 0xffffffffu;

// A thread's own numbers, one for each of its warp's rows, lie in shared memory: a loop over them
// need not be unrolled then, which logarithms and exponentials would make very long.
template <class T>
using SoftLines = T[kSoftWarps][kSoftColumns][kSoftWarpRows];

// What products of two sides need, and after them the columns of the side that is summed.
template <class T>
struct SoftTile {
  union {
    struct {
      // Lanes that read along a row write a column each: four rows of padding spread them over the
      // banks, and leave each warp's four numbers on an address of 16 bytes.
      T own[kSoftDepth][kSoftRows + 4];
      T other[kSoftDepth][kSoftColumns + 1];
      SoftLines<T> values;
    };
    T summed[kSoftColumns][32 * kSoftChunks<T> + 1];
  };
  SoftLines<T> lines;
  int64_t own_rows[kSoftRows], other_rows[kSoftColumns];  // where they begin
};

// The rows of one side of a product; measured from `centre` if that is not null.
struct SoftOperand {
  const Rows& rows;
  int64_t count;
  const float* centre;
};

// Where a row begins, in elements; kSoftOutside where there is none.
constexpr int64_t kSoftOutside = -1;

__device__ inline int64_t soft_row(const SoftOperand& operand, int64_t row) {
  return row < operand.count ? row_offset(operand.rows, row) : kSoftOutside;
}

// Element d of the row that begins there in two steps, so that what loads many has not to wait for
// each: its bits, and what they stand for. 0 where there is none.
template <class T>
using SoftBits = std::conditional_t<is_wide<T>, uint64_t, uint32_t>;

template <class T>
__device__ SoftBits<T> load_soft_bits(const SoftOperand& operand, int64_t row, int64_t d,
                                      int64_t dim) {
  if (row == kSoftOutside || d >= dim) return 0;
  const Rows& rows = operand.rows;
  if constexpr (is_wide<T>) {
    return load_bits(rows.data, rows.dtype, row + d * rows.element_stride);
  } else {
    return load_word(rows.data, rows.dtype, row + d * rows.element_stride);
  }
}

template <class T>
__device__ T soft_element(const SoftOperand& operand, SoftBits<T> bits, int64_t row, int64_t d,
                          int64_t dim) {
  if (row == kSoftOutside || d >= dim) return T(0);
  T x;
  if constexpr (is_wide<T>) {
    x = element_of_bits(bits, operand.rows.dtype);
  } else {
    x = float_of_word(bits, operand.rows.dtype);
  }
  return operand.centre == nullptr ? x : x - static_cast<T>(operand.centre[d]);
}

// The elements that a thread brings into shared memory, of 32 rows and kSoftDepth columns.
template <class T>
struct SoftPart {
  static constexpr int kCount = kSoftDepth * 32 / kSoftThreads;

  const SoftOperand& operand;
  const int64_t (&rows)[32];
  int64_t dim;
  int first_row, first_column;
  int row_step, column_step;  // from one of its elements to the next
  SoftBits<T> bits[kCount];

  __device__ SoftPart(const SoftOperand& operand, const int64_t (&rows)[32], int64_t dim)
      : operand(operand), rows(rows), dim(dim) {
    // Neighbouring threads read what lies side by side.
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const bool along = operand.rows.element_stride == 1;
    first_row = along ? warp : lane;
    first_column = along ? lane : warp;
    row_step = along ? kSoftWarps : 0;
    column_step = along ? 0 : kSoftWarps;
  }

  __device__ int row(int k) const { return first_row + k * row_step; }
  __device__ int column(int k) const { return first_column + k * column_step; }
  __device__ void load(int64_t start) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      bits[k] = load_soft_bits<T>(operand, rows[row(k)], start + column(k), dim);
    }
  }
  template <int kWidth>
  __device__ void store(int64_t start, T (&tile)[kSoftDepth][kWidth]) const {
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      tile[column(k)][row(k)] =
          soft_element<T>(operand, bits[k], rows[row(k)], start + column(k), dim);
    }
  }
};

// lines[r] of a thread = own row r of the warp times the lane's column, first_column on; d
// ascending. Rows and columns that are not there count as zeros.
template <class T>
__device__ void multiply_tile(SoftTile<T>& tile, const SoftOperand& own, int64_t first_row,
                              const SoftOperand& other, int64_t first_column, int64_t dim,
                              SoftLines<T>& lines) {
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  T products[kSoftWarpRows] = {};
  if (thread < 32) {  // all have loaded what the last ones told of
    tile.own_rows[thread] = soft_row(own, first_row + thread);
  } else if (thread < 64) {
    tile.other_rows[lane] = soft_row(other, first_column + lane);
  }
  __syncthreads();
  SoftPart<T> own_part(own, tile.own_rows, dim), other_part(other, tile.other_rows, dim);
#pragma unroll 1
  for (int64_t start = 0; start < dim; start += kSoftDepth) {
    own_part.load(start);
    other_part.load(start);
    __syncthreads();  // until everyone has read what lay there
    own_part.store(start, tile.own);
    other_part.store(start, tile.other);
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
#pragma unroll
  for (int r = 0; r < kSoftWarpRows; ++r) lines[warp][lane][r] = products[r];
}

// Columns of the result that a block sums, from first_element on.
template <class T>
__device__ int soft_width(int64_t dim, int64_t first_element) {
  const int64_t rest = dim - first_element;
  return rest < 32 * kSoftChunks<T> ? static_cast<int>(rest) : 32 * kSoftChunks<T>;
}

// kCount chunks of add_product, from chunk kFirst on.
template <class T, int kFirst, int kCount>
__device__ void add_chunks(const SoftTile<T>& tile, T sums[kSoftChunks<T>][kSoftWarpRows]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // A tile's sum apart, so that few numbers are added to one that has grown large.
  T part[kCount][kSoftWarpRows] = {};
#pragma unroll 2
  for (int j = 0; j < kSoftColumns; ++j) {
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      const T value = tile.summed[j][32 * (kFirst + c) + lane];  // of no use where there is none
#pragma unroll
      for (int r = 0; r < kSoftWarpRows; ++r) {
        part[c][r] = fma(tile.lines[warp][j][r], value, part[c][r]);
      }
    }
  }
#pragma unroll
  for (int c = 0; c < kCount; ++c) {
#pragma unroll
    for (int r = 0; r < kSoftWarpRows; ++r) sums[kFirst + c][r] += part[c][r];
  }
}

// sums[c][r] += sum over the tile's columns j of tile.lines[r] of lane j times
// rows[first + j][first_element + 32 c + lane].
template <class T>
__device__ void add_product(SoftTile<T>& tile, const SoftOperand& rows, int64_t first,
                            int64_t first_element, int64_t dim,
                            T sums[kSoftChunks<T>][kSoftWarpRows]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int width = soft_width<T>(dim, first_element);
  const bool along = rows.rows.element_stride == 1;
  constexpr int kBatch = kSoftChunks<T>;  // loads on their way
  __syncthreads();                        // until everyone has read what lay there
#pragma unroll 1
  for (int batch = 0; batch < kSoftColumns / kSoftWarps; ++batch) {
    const int j = along ? batch * kSoftWarps + warp : lane;
    const auto column = [&](int i) {
      return along ? 32 * i + lane : (batch * kBatch + i) * kSoftWarps + warp;
    };
    const int64_t row = soft_row(rows, first + j);
    SoftBits<T> bits[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      bits[i] = load_soft_bits<T>(rows, row, first_element + column(i), dim);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (column(i) >= width) continue;
      tile.summed[j][column(i)] =
          soft_element<T>(rows, bits[i], row, first_element + column(i), dim);
    }
  }
  __syncthreads();
  constexpr int kHalf = kSoftChunks<T> / 2;
  if (width <= 32) {
    add_chunks<T, 0, 1>(tile, sums);
    return;
  }
  add_chunks<T, 0, kHalf>(tile, sums);
  if (width > 32 * kHalf) add_chunks<T, kHalf, kHalf>(tile, sums);
}

// Lays the sums of a warp's rows where add_product had its columns: tile.summed[row of the block].
// A loop that stores them need not be unrolled then.
template <class T>
__device__ void lay_down(SoftTile<T>& tile, const T sums[kSoftChunks<T>][kSoftWarpRows]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  __syncthreads();  // until everyone has read what lay there
#pragma unroll
  for (int r = 0; r < kSoftWarpRows; ++r) {
#pragma unroll
    for (int c = 0; c < kSoftChunks<T>; ++c) {
      tile.summed[warp * kSoftWarpRows + r][32 * c + lane] = sums[c][r];
    }
  }
  __syncwarp();
}

template <class T>
__device__ T warp_sum(T value) {
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(kAllLanes, value, mask);
  return value;
}

__device__ inline double minus_infinity() {
  return -static_cast<double>(float_of_bits(0x7f800000u));
}

// Whether the kernels of fp64 have to do it.
__device__ inline bool soft_wide(const SoftAssignProblem& problem, const SoftFrame& frame) {
  if (problem.fp64) return true;
  const auto largest = [&](int i) { return static_cast<double>(float_of_bits(frame.largest[i])); };
  const double scale = (problem.squared ? 2.0 : 1.0) / problem.temperature;
  return scale * sqrt(largest(0) * largest(1)) > kLargestFp32Logit ||
         largest(2) > kLargestFp32Logit;
}

// What the logits of a latent lack, if they are measured from `centre`; every lane of a warp calls.
__device__ inline double row_constant(const SoftAssignProblem& problem, const float* centre,
                                      int64_t row) {
  double sum = 0.0;
  for (int64_t d = threadIdx.x % 32; d < problem.dim; d += 32) {
    const double z = load_at(problem.z, row, d);
    const double from = centre == nullptr ? 0.0 : static_cast<double>(centre[d]);
    sum += problem.squared ? -(z - from) * (z - from) : z * from;
  }
  return warp_sum(sum) / problem.temperature;
}

// The centre of the kernels of either type: in fp64 there are digits enough without one.
template <class T>
__device__ const float* centre_for(const float* centre) {
  return is_wide<T> ? nullptr : centre;
}

// What is added to the logits of a code.
template <class T>
__device__ const double* code_terms_for(const SoftAssignProblem& problem, const SoftFrame& frame) {
  return frame.code_terms + (is_wide<T> ? problem.num_codes : 0);
}

// Runs the kernel of fp64, and before it, if the problem may be for either, that of fp32: each
// finds out by itself whether it is the one. A block for each `blocks` and each kSoftChunks of
// `width`.
template <class Kernel, class Args>
cudaError_t launch_soft(Kernel* fp32, Kernel* fp64, int64_t blocks, int64_t width,
                        cudaStream_t stream, const Args& args) {
  const auto parts = [&](int64_t chunks) { return width == 0 ? 1 : ceil_div(width, 32 * chunks); };
  if (!args.problem.fp64) {
    const cudaError_t error =
        launch(fp32, blocks, parts(kSoftChunks<float>), kSoftThreads, stream, args);
    if (error != cudaSuccess) return error;
  }
  return launch(fp64, blocks, parts(kSoftChunks<double>), kSoftThreads, stream, args);
}

// The Gumbel noise of a latent and a code: docs/soft_assign.md.
template <class T>
__device__ T gumbel_noise(uint64_t seed, int64_t row, int64_t code) {
  uint32_t words[4] = {static_cast<uint32_t>(code / 4), static_cast<uint32_t>(row),
                       static_cast<uint32_t>(row >> 32), 0};
  philox<1>(words, seed, MultiplyWords());  // its kernels have no registers to spare
  const int word = static_cast<int>(code % 4);
  const uint32_t x = word == 0 ? words[0] : word == 1 ? words[1] : word == 2 ? words[2] : words[3];
  // Close to 1 the distance to it counts, which u itself is too coarse for in fp32.
  const T u = fma(static_cast<T>(x), T(0x1p-32), T(0x1p-33));
  const T distance = fma(static_cast<T>(~x), T(0x1p-32), T(0x1p-33));
  return -log(u > T(0.5) ? -log1p(-distance) : -log(u));
}

}  // namespace
}  // namespace cuda
}  // namespace vqgan_fast
