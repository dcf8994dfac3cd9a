// The definition itself, for fp64 inputs and for rows that nothing cheaper decided: a block holds
// up to 64 rows against 64 codes at a time, 4 x 4 sums in each thread's registers, 16 columns of
// both in shared memory. Each sum runs over d ascending with one fma per column, so that it is the
// very number that the CPU computes, and the argmin cannot differ.
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/definition.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/nearest_code_classes.cuh"
#include "kernels/cuda/nearest_code_stages.cuh"
#include "kernels/cuda/tiling.h"

namespace vqgan_fast {
namespace cuda {
namespace {

constexpr int kDepth = 16;  // columns in shared memory
constexpr int kSide = 16;   // threads along rows, and along codes
constexpr int kThreads = kSide * kSide;
constexpr int kPerThread = kExactRows / kSide;  // rows, and codes, of one thread
constexpr int kWarp = 32;
constexpr int64_t kOutside = -1;  // offset of a row that is not there

using Offsets = int64_t[kExactRows];
using Tile = double[kDepth][kExactRows + 1];

static_assert(kExactRows == kExactCodes, "one loader serves both tiles");

// tile[d][r] = rows[r][first_column + d] for kSide kCount rows; 0 outside, which adds
// fma(0, 0, acc) = acc. Neighbouring threads read neighbouring memory, whether rows or columns lie
// side by side.
template <int kCount>
__device__ void load_tile(const Rows& rows, const Offsets& offsets, int64_t first_column,
                          int64_t dim, Tile& tile) {
  constexpr int kRows = kSide * kCount;
  static_assert(kRows * kDepth == kThreads * kCount, "as many elements for each thread");
  const bool columns_adjoin = rows.element_stride == 1;
  const auto row_of = [&](int i) { return columns_adjoin ? i / kDepth : i % kRows; };
  const auto column_of = [&](int i) { return columns_adjoin ? i % kDepth : i / kRows; };
  uint64_t bits[kCount];  // 0 is 0.0 in every type
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    const int i = threadIdx.x + k * kThreads;
    const int64_t offset = offsets[row_of(i)];
    const int64_t column = first_column + column_of(i);
    bits[k] = offset != kOutside && column < dim
                  ? load_bits(rows.data, rows.dtype, offset + column * rows.element_stride)
                  : 0;
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    const int i = threadIdx.x + k * kThreads;
    tile[column_of(i)][row_of(i)] = element_of_bits(bits[k], rows.dtype);
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

__device__ Nearest nearest_of_warp(Nearest best) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const double distance = __shfl_xor_sync(0xffffffffu, best.distance, step);
    const long long code = __shfl_xor_sync(0xffffffffu, static_cast<long long>(best.code), step);
    best = nearer(best, Nearest{distance, code});
  }
  return best;
}

struct Shared {
  Tile z, e;
  Offsets z_offsets, e_offsets;
};

// Row tiles of kSide kRows rows, and ranges of codes where tiles are few, in turn on every block.
// With one range the result is written, else partials[split * rows + slot].
template <int kRows>
__device__ void search_tiles(const SearchArgs& args, int64_t num_rows, Shared& shared) {
  const int thread = threadIdx.x;
  const int tx = thread % kSide;  // codes tx, tx + 16, ... of a tile
  const int ty = thread / kSide;  // rows ty, ty + 16, ...
  const int64_t row_tiles = ceil_div(num_rows, kSide * kRows);
  const int64_t splits = exact_splits(num_rows, args.num_codes, args.plan.exact_blocks);
  const int64_t codes_per_split =
      ceil_div(ceil_div(args.num_codes, kExactCodes), splits) * kExactCodes;

  for (int64_t item = blockIdx.x; item < row_tiles * splits; item += gridDim.x) {
    const int64_t first_slot = item % row_tiles * (kSide * kRows);
    const int64_t split = item / row_tiles;
    const int64_t first_code = split * codes_per_split;
    const int64_t end_code = first_code + codes_per_split < args.num_codes
                                 ? first_code + codes_per_split
                                 : args.num_codes;
    __syncthreads();  // the last item's offsets have been read
    if (thread < kSide * kRows) {
      const int64_t slot = first_slot + thread;
      shared.z_offsets[thread] =
          slot < num_rows ? row_offset(args.z, args.first_row + listed_row(args, slot)) : kOutside;
    }
    Nearest best[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) best[i] = Nearest{0.0, -1};

    for (int64_t tile = first_code; tile < end_code; tile += kExactCodes) {
      if (thread < kExactCodes) {  // all have read the last tile's offsets before its last barrier
        const int64_t code = tile + thread;
        shared.e_offsets[thread] = code < end_code ? row_offset(args.codebook, code) : kOutside;
      }
      double acc[kRows][kPerThread] = {};
      for (int64_t column = 0; column < args.dim; column += kDepth) {
        __syncthreads();  // the last columns have been read, the offsets are written
        load_tile<kRows>(args.z, shared.z_offsets, column, args.dim, shared.z);
        load_tile<kPerThread>(args.codebook, shared.e_offsets, column, args.dim, shared.e);
        __syncthreads();
#pragma unroll 4
        for (int d = 0; d < kDepth; ++d) {
          double x[kRows];
          double e[kPerThread];
#pragma unroll
          for (int i = 0; i < kRows; ++i) x[i] = shared.z[d][ty + i * kSide];
#pragma unroll
          for (int j = 0; j < kPerThread; ++j) e[j] = shared.e[d][tx + j * kSide];
#pragma unroll
          for (int i = 0; i < kRows; ++i) {
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
        for (int i = 0; i < kRows; ++i) take_code(&best[i], acc[i][j], code);
      }
    }

    // The 16 threads that share a row lie side by side in one half of a warp.
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
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

struct SharedClasses {
  int count;
  ClassPlace places[kMostClasses];
  Nearest best[kThreads / kWarp];
};

// A crowded row: all threads measure codes of the classes within its limit.
__device__ void measure_classes(const SearchArgs& args, bool fours, int64_t chunk_row,
                                SharedClasses& shared) {
  const int64_t entries = args.plan.splits * class_count(args.plan.classes);
  const float limit = args.losers[chunk_row];
  __syncthreads();  // the last row's have been read
  if (threadIdx.x == 0) shared.count = 0;
  __syncthreads();
  for (int64_t e = threadIdx.x; e < entries; e += kThreads) {
    if (!(record_of(args, chunk_row, e).score <= limit)) continue;
    shared.places[atomicAdd(&shared.count, 1)] = class_place(args.plan, e);
  }
  __syncthreads();
  const int64_t z_offset = row_offset(args.z, args.first_row + chunk_row);
  // is_crowded: all of them are fewer than the codebook has.
  const auto codes = static_cast<uint32_t>(codes_of_classes(args.plan, 1));
  Nearest best{0.0, -1};
  for (uint32_t i = threadIdx.x; i < codes * shared.count; i += kThreads) {
    const uint32_t place = i / codes;
    const int64_t code =
        code_of_class(args.plan, shared.places[place], static_cast<int>(i - place * codes));
    if (code >= args.num_codes) continue;
    const double distance = squared_distance<4>(args.z, z_offset, args.codebook,
                                                row_offset(args.codebook, code), args.dim, fours);
    if (distance == distance) best = nearer(best, Nearest{distance, code});
  }
  best = nearest_of_warp(best);
  if (threadIdx.x % kWarp == 0) shared.best[threadIdx.x / kWarp] = best;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kThreads / kWarp; ++warp) best = nearer(best, shared.best[warp]);
  write_result(args, chunk_row, best);
}

// Rows that stay open are often a handful, of which a whole tile would be empty for the most part.
// (The number of splits is that of one tile, whichever.) Two blocks on a multiprocessor leave each
// thread 128 registers; three would make it spill.
__global__ void __launch_bounds__(kThreads, 2) exact_kernel(SearchArgs args, bool fours) {
  __shared__ union {
    Shared tiles;
    SharedClasses classes;
  } shared;
  const int crowded_rows = args.open == nullptr ? 0 : args.facts->crowded_rows;
  for (int i = blockIdx.x; i < crowded_rows; i += gridDim.x) {
    measure_classes(args, fours, *crowded_row(args, i), shared.classes);
  }
  const int64_t num_rows = listed_rows(args);
  if (num_rows <= kSide) {
    search_tiles<1>(args, num_rows, shared.tiles);
  } else if (num_rows <= 2 * kSide) {
    search_tiles<2>(args, num_rows, shared.tiles);
  } else {
    search_tiles<kPerThread>(args, num_rows, shared.tiles);
  }
}

// A warp for each row: there may be as many ranges as blocks, and each is far away.
__global__ void __launch_bounds__(kThreads) merge_kernel(SearchArgs args) {
  const int64_t num_rows = listed_rows(args);
  const int64_t splits = exact_splits(num_rows, args.num_codes, args.plan.exact_blocks);
  if (splits == 1) return;
  const int lane = threadIdx.x % kWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  int64_t slot = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  for (; slot < num_rows; slot += warps) {
    Nearest best{0.0, -1};
    for (int64_t split = lane; split < splits; split += kWarp) {
      best = nearer(best, args.partials[split * num_rows + slot]);
    }
    best = nearest_of_warp(best);
    if (lane == 0) write_result(args, listed_row(args, slot), best);
  }
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
      launch(exact_kernel, listed || items > blocks ? blocks : items, 1, kThreads, stream, args,
             fours_allowed(args.z) && fours_allowed(args.codebook));
  if (error != cudaSuccess || (!listed && splits == 1)) return error;
  const int64_t most =
      exact_partials(blocks) < args.num_rows ? exact_partials(blocks) : args.num_rows;
  const int64_t merging = ceil_div(most, kThreads / kWarp);
  return launch(merge_kernel, merging < blocks ? merging : blocks, 1, kThreads, stream, args);
}

}  // namespace cuda
}  // namespace vqgan_fast
