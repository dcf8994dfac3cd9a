// Direct fp64 distances: a block holds 64 rows against 64 codes at a time, 4 x 4 sums in each
// thread's registers, 16 columns of both in shared memory. Each sum runs over d ascending with one
// fma per column, so that it is the very number that the CPU computes, and the argmin cannot
// differ.
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/nearest_code.cuh"
#include "kernels/cuda/tiling.h"

namespace vqgan_fast {
namespace cuda {
namespace {

constexpr int kDepth = 16;  // columns in shared memory
constexpr int kSide = 16;   // threads along rows, and along codes
constexpr int kThreads = kSide * kSide;
constexpr int kPerThread = kRowTile / kSide;  // rows, and codes, of one thread
constexpr int kFinishThreads = 256;
constexpr int64_t kOutside = -1;  // offset of a row that is not there

static_assert(kRowTile == kCodeTile, "one loader serves both tiles");

// tile[d][r] = rows[r][first_column + d]; 0 outside, which adds fma(0, 0, acc) = acc. Neighbouring
// threads read neighbouring memory, whether rows or columns lie side by side.
__device__ void load_tile(const Rows& rows, const int64_t* offsets, int64_t first_column,
                          int64_t dim, double (*tile)[kRowTile + 1]) {
  const bool columns_adjoin = rows.element_stride == 1;
  for (int i = threadIdx.x; i < kRowTile * kDepth; i += kThreads) {
    const int r = columns_adjoin ? i / kDepth : i % kRowTile;
    const int d = columns_adjoin ? i % kDepth : i / kRowTile;
    const int64_t column = first_column + d;
    const bool inside = offsets[r] != kOutside && column < dim;
    tile[d][r] =
        inside ? load_element(rows.data, rows.dtype, offsets[r] + column * rows.element_stride)
               : 0.0;
  }
}

// nearest[split * num_rows + row] for one row tile (blockIdx.x) and one range of codes
// (blockIdx.y). Two blocks on a multiprocessor leave each thread 128 registers; three would make it
// spill.
__global__ void __launch_bounds__(kThreads, 2)
    search_kernel(Rows z, Rows codebook, int64_t num_rows, int64_t num_codes, int64_t dim,
                  int64_t codes_per_split, Nearest* nearest) {
  __shared__ double z_tile[kDepth][kRowTile + 1];
  __shared__ double e_tile[kDepth][kCodeTile + 1];
  __shared__ int64_t z_offsets[kRowTile];
  __shared__ int64_t e_offsets[kCodeTile];

  const int thread = threadIdx.x;
  const int tx = thread % kSide;  // codes tx, tx + 16, ... of a tile
  const int ty = thread / kSide;  // rows ty, ty + 16, ...
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRowTile;
  const int64_t first_code = static_cast<int64_t>(blockIdx.y) * codes_per_split;
  const int64_t end_code =
      first_code + codes_per_split < num_codes ? first_code + codes_per_split : num_codes;

  if (thread < kRowTile) {
    const int64_t row = first_row + thread;
    z_offsets[thread] = row < num_rows ? row_offset(z, row) : kOutside;
  }
  Nearest best[kPerThread];
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) best[i] = Nearest{0.0, -1};

  for (int64_t tile = first_code; tile < end_code; tile += kCodeTile) {
    if (thread < kCodeTile) {  // all have read the last tile's offsets before its last barrier
      const int64_t code = tile + thread;
      e_offsets[thread] = code < end_code ? row_offset(codebook, code) : kOutside;
    }
    double acc[kPerThread][kPerThread] = {};
    for (int64_t column = 0; column < dim; column += kDepth) {
      __syncthreads();  // the last columns have been read, the offsets are written
      load_tile(z, z_offsets, column, dim, z_tile);
      load_tile(codebook, e_offsets, column, dim, e_tile);
      __syncthreads();
#pragma unroll 4
      for (int d = 0; d < kDepth; ++d) {
        double x[kPerThread];
        double e[kPerThread];
#pragma unroll
        for (int i = 0; i < kPerThread; ++i) {
          x[i] = z_tile[d][ty + i * kSide];
          e[i] = e_tile[d][tx + i * kSide];
        }
#pragma unroll
        for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
          for (int j = 0; j < kPerThread; ++j) {
            const double difference = x[i] - e[j];
            acc[i][j] = fma(difference, difference, acc[i][j]);
          }
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const int64_t code = tile + tx + j * kSide;
      if (code >= end_code) continue;
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) take_code(&best[i], acc[i][j], code);
    }
  }

  // The 16 threads that share a row lie side by side in one half of a warp.
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    for (int step = kSide / 2; step > 0; step /= 2) {
      const double distance = __shfl_down_sync(0xffffffffu, best[i].distance, step, kSide);
      const long long code =
          __shfl_down_sync(0xffffffffu, static_cast<long long>(best[i].code), step, kSide);
      best[i] = nearer(best[i], Nearest{distance, code});
    }
    const int64_t row = first_row + ty + i * kSide;
    if (tx == 0 && row < num_rows) nearest[blockIdx.y * num_rows + row] = best[i];
  }
}

__device__ bool row_is_finite(const Rows& z, int64_t row, int64_t dim) {
  const int64_t offset = row_offset(z, row);
  for (int64_t d = 0; d < dim; ++d) {
    const double x = load_element(z.data, z.dtype, offset + d * z.element_stride);
    if (!(x - x == 0.0)) return false;
  }
  return true;
}

// Merges the splits of each row and writes what is asked for. A non-finite row can only show itself
// by no code at all (NaN) or by an infinite distance; finite fp64 inputs can overflow to that as
// well.
__global__ void __launch_bounds__(kFinishThreads)
    finish_kernel(Rows z, int64_t num_rows, int64_t dim, const Nearest* nearest, int64_t splits,
                  int64_t* indices, void* distances, DType distance_dtype) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kFinishThreads + threadIdx.x;
  if (row >= num_rows) return;
  Nearest best = nearest[row];
  for (int64_t split = 1; split < splits; ++split) {
    best = nearer(best, nearest[split * num_rows + row]);
  }
  const bool finite = best.distance - best.distance == 0.0;
  if (best.code < 0 || (!finite && !row_is_finite(z, row, dim))) {
    best = Nearest{static_cast<double>(float_of_bits(0x7fc00000u)), 0};
  }
  indices[row] = best.code;
  store_element(distances, distance_dtype, row, best.distance);
}

cudaError_t plan(int64_t num_rows, int64_t num_codes, NearestCodePlan* out) {
  int device = 0;
  int multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  *out = plan_nearest_code(num_rows, num_codes, multiprocessors);
  return cudaSuccess;
}

}  // namespace

cudaError_t nearest_code_workspace_bytes(int64_t num_rows, int64_t num_codes, size_t* bytes) {
  NearestCodePlan p;
  const cudaError_t error = plan(num_rows, num_codes, &p);
  if (error == cudaSuccess) *bytes = sizeof(Nearest) * num_rows * p.splits;
  return error;
}

cudaError_t nearest_code(const NearestCodeArgs& args, cudaStream_t stream) {
  NearestCodePlan p;
  cudaError_t error = plan(args.num_rows, args.num_codes, &p);
  if (error != cudaSuccess) return error;
  Nearest* nearest = static_cast<Nearest*>(args.workspace);
  error = launch(search_kernel, p.row_tiles, p.splits, kThreads, stream, args.z, args.codebook,
                 args.num_rows, args.num_codes, args.dim, p.codes_per_split, nearest);
  if (error != cudaSuccess) return error;
  return launch(finish_kernel, ceil_div(args.num_rows, kFinishThreads), 1, kFinishThreads, stream,
                args.z, args.num_rows, args.dim, nearest, p.splits, args.indices, args.distances,
                args.distance_dtype);
}

}  // namespace cuda
}  // namespace vqgan_fast
