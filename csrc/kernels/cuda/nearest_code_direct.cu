// fp32 distances of all pairs: few rows, for which packing images would take longer, and GPUs
// before sm_80. The error of a sum of squares is relative to it: docs/numerics.md, "Direct
// distances".
//
// A block has 32 rows against 64 codes at a time, 32 columns of both in shared memory, twice: the
// next columns are on their way into registers while these are multiplied.
#include <cstdint>

#include "kernels/cuda/class_records.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/nearest_code_stages.cuh"

namespace vqgan_fast {
namespace cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kCodeThreads = 16;  // along codes: one class each
constexpr int kRowThreads = kThreads / kCodeThreads;
constexpr int kRows = kDirectRows / kRowThreads;     // of a thread
constexpr int kCodes = kDirectCodes / kCodeThreads;  // of a thread
constexpr int kDepth = 32;                           // columns in shared memory
constexpr int kUnits = kDepth / kUnitColumns;
constexpr int kLoads = (kDirectRows + kDirectCodes) * kUnits / kThreads;  // units of a thread
constexpr int kRowLoads = kDirectRows * kUnits / kThreads;
// Odd, and even for loads of two: the eight columns of a unit go to different banks.
constexpr int kRowPitch = kDirectRows + 1;
constexpr int kCodePitch = kDirectCodes + 2;

static_assert(kCodes == 4 && kDirectCodes / 16 == kCodes, "a class has the four codes of a thread");

struct alignas(16) Tiles {
  float rows[kDepth][kRowPitch];
  float codes[kDepth][kCodePitch];
};

// Unit i of a thread's loads: which row of which tile, which 8 columns.
struct Place {
  int row;
  int unit;
  __device__ Place(const Rows& rows, int i, int num_rows) {
    const bool adjoin = rows.element_stride == 1;
    row = adjoin ? i / kUnits : i % num_rows;
    unit = adjoin ? i % kUnits : i / num_rows;
  }
};

// Columns `column` .. column + 7 of a row, as load_eight_words has them; 0 outside, which adds
// nothing.
__device__ void load_unit(const Rows& rows, bool aligned, int64_t row, int64_t end_row,
                          int64_t column, int64_t dim, uint32_t (&words)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) words[i] = 0;
  if (row >= end_row || column >= dim) return;
  const int64_t offset = row_offset(rows, row) + column * rows.element_stride;
  if (column + kUnitColumns <= dim) {
    load_eight_words(rows, offset, aligned, words);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (column + i >= dim) continue;
    const auto bits =
        static_cast<uint32_t>(load_bits(rows.data, rows.dtype, offset + i * rows.element_stride));
    if (rows.dtype == DType::kFloat32) {
      words[i] = bits;
    } else {
      words[i / 2] |= bits << (i % 2 * 16);
    }
  }
}

// Three blocks on a multiprocessor: 168 registers for each thread.
__global__ void __launch_bounds__(kThreads, 3)
    direct_kernel(SearchArgs args, bool rows_aligned, bool codes_aligned) {
  __shared__ Tiles tiles[2];
  const int thread = threadIdx.x;
  const int tx = thread % kCodeThreads;
  const int ty = thread / kCodeThreads;
  if (blockIdx.x == 0 && thread == 0) {
    args.facts->open_rows = 0;
    args.facts->crowded_rows = 0;
  }

  const int64_t row_tile = blockIdx.x % args.plan.row_tiles;
  const int64_t split = blockIdx.x / args.plan.row_tiles;
  const int64_t first_row = row_tile * kDirectRows;
  const int64_t first_tile = split * args.plan.tiles_per_split;
  const int64_t rest = args.plan.code_tiles - first_tile;
  const int64_t code_tiles = rest < args.plan.tiles_per_split ? rest : args.plan.tiles_per_split;
  const int64_t per_tile = ceil_div(args.dim, kDepth);

  uint32_t loaded[kLoads][8];
  const auto load = [&](int64_t stage) {
    const int64_t column = stage % per_tile * kDepth;
    const int64_t first_code = (first_tile + stage / per_tile) * kDirectCodes;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const bool is_row = i < kRowLoads;
      const Place at(is_row ? args.z : args.codebook,
                     thread + (is_row ? i : i - kRowLoads) * kThreads,
                     is_row ? kDirectRows : kDirectCodes);
      const int64_t from = column + at.unit * kUnitColumns;
      if (is_row) {
        load_unit(args.z, rows_aligned, args.first_row + first_row + at.row,
                  args.first_row + args.num_rows, from, args.dim, loaded[i]);
      } else {
        load_unit(args.codebook, codes_aligned, first_code + at.row, args.num_codes, from, args.dim,
                  loaded[i]);
      }
    }
  };
  const auto store = [&](Tiles& tile) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const bool is_row = i < kRowLoads;
      const Place at(is_row ? args.z : args.codebook,
                     thread + (is_row ? i : i - kRowLoads) * kThreads,
                     is_row ? kDirectRows : kDirectCodes);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const int d = at.unit * kUnitColumns + j;
        if (is_row) {
          tile.rows[d][at.row] = float_of_words(loaded[i], j, args.z.dtype);
        } else {
          tile.codes[d][at.row] = float_of_words(loaded[i], j, args.codebook.dtype);
        }
      }
    }
  };

  ClassRecord<1> records[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) records[i].clear();
  float acc[kRows][kCodes] = {};
  const int64_t stages = code_tiles * per_tile;
  load(0);
  for (int64_t stage = 0; stage < stages; ++stage) {
    Tiles& tile = tiles[stage % 2];
    store(tile);
    if (stage + 1 < stages) load(stage + 1);
    __syncthreads();  // the stage after this one is stored where nobody reads any more
#pragma unroll 8
    for (int d = 0; d < kDepth; ++d) {
      float x[kRows];
      float e[kCodes];
#pragma unroll
      for (int i = 0; i < kRows; ++i) x[i] = tile.rows[d][ty + i * kRowThreads];
#pragma unroll
      for (int j = 0; j < kCodes; j += 2) {
        // Codes j, j + 1 of class tx: class_code with a layout of 64 codes in 4 runs.
        const int column = fragment_column(tx, tx / 4 * 2 + j / 2, 0);
        const float2 two = *reinterpret_cast<const float2*>(&tile.codes[d][column]);
        e[j] = two.x;
        e[j + 1] = two.y;
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
#pragma unroll
        for (int j = 0; j < kCodes; ++j) {
          const float difference = x[i] - e[j];
          acc[i][j] = fmaf(difference, difference, acc[i][j]);
        }
      }
    }
    if (stage % per_tile != per_tile - 1) continue;
    const int64_t tile_index = first_tile + stage / per_tile;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      float smallest = float_of_bits(0x7f800000u);
#pragma unroll
      for (int j = 0; j < kCodes; ++j) {
        const int64_t code =
            tile_index * kDirectCodes + fragment_column(tx, tx / 4 * 2 + j / 2, j % 2);
        if (code < args.num_codes) smallest = fminf(smallest, acc[i][j]);
        acc[i][j] = 0.0f;
      }
      records[i].take(0, smallest, static_cast<int>(tile_index));
    }
  }

#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    float loser = records[i].loser;
    for (int step = kCodeThreads / 2; step > 0; step /= 2) {
      loser = fminf(loser, __shfl_down_sync(kAllLanes, loser, step, kCodeThreads));
    }
    const int64_t row = first_row + ty + i * kRowThreads;
    if (row >= args.num_rows) continue;
    const int64_t place = split * args.plan.chunk_rows + row;
    args.records[place * kCodeThreads + tx] = ClassBest{records[i].best[0], records[i].tile[0]};
    if (tx == 0) args.losers[place] = loser;
  }
}

}  // namespace

cudaError_t search_direct(const SearchArgs& args, cudaStream_t stream) {
  SearchArgs now = args;
  now.plan.row_tiles = ceil_div(args.num_rows, kDirectRows);
  return launch(direct_kernel, now.plan.row_tiles * args.plan.splits, 1, kThreads, stream, now,
                eights_allowed(args.z), eights_allowed(args.codebook));
}

}  // namespace cuda
}  // namespace vqgan_fast
