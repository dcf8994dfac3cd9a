// The definition itself, for fp64 inputs and for rows that nothing cheaper decided: a block holds
// 64 rows against 64 codes at a time, 4 x 4 sums in each thread's registers, 16 columns of both in
// shared memory. Each sum runs over d ascending with one fma per column, so that it is the very
// number that the CPU computes, and the argmin cannot differ.
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/definition.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/nearest_code_stages.cuh"
#include "kernels/cuda/tiling.h"

namespace vqgan_fast {
namespace cuda {
namespace {

constexpr int kDepth = 16;  // columns in shared memory
constexpr int kSide = 16;   // threads along rows, and along codes
constexpr int kThreads = kSide * kSide;
constexpr int kPerThread = kExactRows / kSide;  // rows, and codes, of one thread
constexpr int64_t kOutside = -1;                // offset of a row that is not there

static_assert(kExactRows == kExactCodes, "one loader serves both tiles");

// tile[d][r] = rows[r][first_column + d]; 0 outside, which adds fma(0, 0, acc) = acc. Neighbouring
// threads read neighbouring memory, whether rows or columns lie side by side.
__device__ void load_tile(const Rows& rows, const int64_t* offsets, int64_t first_column,
                          int64_t dim, double (*tile)[kExactRows + 1]) {
  const bool columns_adjoin = rows.element_stride == 1;
  for (int i = threadIdx.x; i < kExactRows * kDepth; i += kThreads) {
    const int r = columns_adjoin ? i / kDepth : i % kExactRows;
    const int d = columns_adjoin ? i % kDepth : i / kExactRows;
    const int64_t column = first_column + d;
    const bool inside = offsets[r] != kOutside && column < dim;
    tile[d][r] =
        inside ? load_element(rows.data, rows.dtype, offsets[r] + column * rows.element_stride)
               : 0.0;
  }
}

// How many rows are to be searched, and which is number `slot`, of the chunk.
__device__ int64_t listed_rows(const SearchArgs& args) {
  return args.open == nullptr ? args.num_rows : args.facts->open_rows;
}
__device__ int64_t listed_row(const SearchArgs& args, int64_t slot) {
  return args.open == nullptr ? slot : args.open[slot];
}

// A row that is not finite can only show itself by no code at all (NaN) or by an infinite distance;
// finite fp64 inputs can overflow to that as well.
__device__ void write_result(const SearchArgs& args, int64_t chunk_row, Nearest best) {
  const int64_t row = args.first_row + chunk_row;
  if (best.code < 0 || (!is_finite(best.distance) && !row_is_finite(args.z, row, args.dim))) {
    best = Nearest{static_cast<double>(float_of_bits(0x7fc00000u)), 0};
  }
  args.indices[row] = best.code;
  store_element(args.distances, args.distance_dtype, row, best.distance);
}

// Row tiles, and ranges of codes where tiles are few, in turn on every block. With one range the
// result is written, else partials[split * rows + slot]. Two blocks on a multiprocessor leave each
// thread 128 registers; three would make it spill.
__global__ void __launch_bounds__(kThreads, 2) exact_kernel(SearchArgs args) {
  __shared__ double z_tile[kDepth][kExactRows + 1];
  __shared__ double e_tile[kDepth][kExactCodes + 1];
  __shared__ int64_t z_offsets[kExactRows];
  __shared__ int64_t e_offsets[kExactCodes];

  const int thread = threadIdx.x;
  const int tx = thread % kSide;  // codes tx, tx + 16, ... of a tile
  const int ty = thread / kSide;  // rows ty, ty + 16, ...
  const int64_t num_rows = listed_rows(args);
  const int64_t row_tiles = ceil_div(num_rows, kExactRows);
  const int64_t splits = exact_splits(num_rows, args.num_codes, args.plan.exact_blocks);
  const int64_t codes_per_split =
      ceil_div(ceil_div(args.num_codes, kExactCodes), splits) * kExactCodes;

  for (int64_t item = blockIdx.x; item < row_tiles * splits; item += gridDim.x) {
    const int64_t first_slot = item % row_tiles * kExactRows;
    const int64_t split = item / row_tiles;
    const int64_t first_code = split * codes_per_split;
    const int64_t end_code = first_code + codes_per_split < args.num_codes
                                 ? first_code + codes_per_split
                                 : args.num_codes;
    __syncthreads();  // the last item's offsets have been read
    if (thread < kExactRows) {
      const int64_t slot = first_slot + thread;
      z_offsets[thread] =
          slot < num_rows ? row_offset(args.z, args.first_row + listed_row(args, slot)) : kOutside;
    }
    Nearest best[kPerThread];
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) best[i] = Nearest{0.0, -1};

    for (int64_t tile = first_code; tile < end_code; tile += kExactCodes) {
      if (thread < kExactCodes) {  // all have read the last tile's offsets before its last barrier
        const int64_t code = tile + thread;
        e_offsets[thread] = code < end_code ? row_offset(args.codebook, code) : kOutside;
      }
      double acc[kPerThread][kPerThread] = {};
      for (int64_t column = 0; column < args.dim; column += kDepth) {
        __syncthreads();  // the last columns have been read, the offsets are written
        load_tile(args.z, z_offsets, column, args.dim, z_tile);
        load_tile(args.codebook, e_offsets, column, args.dim, e_tile);
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
            for (int j = 0; j < kPerThread; ++j) acc[i][j] = take_column(acc[i][j], x[i], e[j]);
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
      const int64_t slot = first_slot + ty + i * kSide;
      if (tx != 0 || slot >= num_rows) continue;
      if (splits == 1) {
        write_result(args, listed_row(args, slot), best[i]);
      } else {
        args.partials[split * num_rows + slot] = best[i];
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads) merge_kernel(SearchArgs args) {
  const int64_t num_rows = listed_rows(args);
  const int64_t splits = exact_splits(num_rows, args.num_codes, args.plan.exact_blocks);
  const int64_t slot = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (splits == 1 || slot >= num_rows) return;
  Nearest best = args.partials[slot];
  for (int64_t split = 1; split < splits; ++split) {
    best = nearer(best, args.partials[split * num_rows + slot]);
  }
  write_result(args, listed_row(args, slot), best);
}

}  // namespace

cudaError_t search_exact(const SearchArgs& args, cudaStream_t stream) {
  // A list has as many rows as the device finds; all rows are known here.
  const int64_t blocks = args.plan.exact_blocks;
  const bool listed = args.open != nullptr;
  const int64_t row_tiles = ceil_div(args.num_rows, kExactRows);
  const int64_t splits = exact_splits(args.num_rows, args.num_codes, blocks);
  const int64_t items = row_tiles * splits;
  const cudaError_t error =
      launch(exact_kernel, listed || items > blocks ? blocks : items, 1, kThreads, stream, args);
  if (error != cudaSuccess || (!listed && splits == 1)) return error;
  const int64_t most =
      exact_partials(blocks) < args.num_rows ? exact_partials(blocks) : args.num_rows;
  return launch(merge_kernel, ceil_div(most, kThreads), 1, kThreads, stream, args);
}

}  // namespace cuda
}  // namespace vqgan_fast
