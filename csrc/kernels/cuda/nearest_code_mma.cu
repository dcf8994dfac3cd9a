// Scores by mma.sync, from sm_80 on. A block has 128 rows against 128 codes at a time; four warps,
// 64 by 64 each. Both operands stream through shared memory, 32 columns a stage, so that any number
// of columns fits a consumer card's 99 KB, twice.
#include <cstdint>

#include "kernels/cuda/class_records.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/nearest_code_stages.cuh"
#include "kernels/cuda/ptx.cuh"

namespace vqgan_fast {
namespace cuda {
namespace {

// [[maybe_unused]]: sm_75 compiles none of the code that these are for.
[[maybe_unused]] constexpr int kWarp = 32;
constexpr int kThreads = 128;
constexpr int kWarpRows = 64;   // one panel of rows
constexpr int kWarpCodes = 64;  // half a panel of codes
[[maybe_unused]] constexpr int kRowFragments = kWarpRows / 16;
[[maybe_unused]] constexpr int kCodeFragments = kWarpCodes / 8;
constexpr int kStageColumns = 32;
constexpr int kStages = 3;
[[maybe_unused]] constexpr int kPanelBytes = kStageColumns * kRowPanel * 2;
constexpr int kRowBytes = kStageColumns * kMmaRows * 2;
constexpr int kCodeBytes = kStageColumns * kCodePanel * 2;
constexpr int kStageBytes = kRowBytes + kCodeBytes;
constexpr int kScaleBytes = kMmaRows * 4;

static_assert(kMmaRows == 2 * kRowPanel && kCodePanel == 2 * kWarpCodes, "two by two warps");
static_assert(kMmaRows == kThreads, "a thread fetches a row's scale and writes its loser");

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

__device__ void copy_contiguous(unsigned char* shared, const unsigned char* global, int bytes) {
  for (int i = threadIdx.x * kUnitBytes; i < bytes; i += kThreads * kUnitBytes) {
    ptx::copy_async_16(shared + i, global + i);
  }
}

// The stages of one block's work, in the order it needs them: for each tile of codes, all columns.
struct StageSource {
  const unsigned char* rows;
  const unsigned char* codes;  // of the tile that is requested next
  int depth;
  int first;  // column that is requested next
  int left;   // stages not yet requested

  // A group of copies is committed for every stage, one behind the last too: the count of groups is
  // what is waited for.
  __device__ void request_next(unsigned char* shared) {
    if (left > 0) {
      const int rest = depth - first;
      const int columns = rest < kStageColumns ? rest : kStageColumns;
      for (int panel = 0; panel < kMmaRows / kRowPanel; ++panel) {
        copy_contiguous(
            shared + panel * kPanelBytes,
            rows + panel * row_panel_bytes(depth) + unit_offset(kRowPanel, first / 8, 0),
            columns * kRowPanel * 2);
      }
      copy_contiguous(shared + kRowBytes, codes + unit_offset(kCodePanel, first / 8, 0),
                      columns * kCodePanel * 2);
      --left;
      first += kStageColumns;
      if (first >= depth) {
        first = 0;
        codes += code_panel_bytes(depth);
      }
    }
    ptx::commit_copies();
  }
};

// Of the columns that a lane has of the codes behind first_code of a tile.
__device__ void half_norms_of(const unsigned char* tile, int depth, int first_code, int lane,
                              float2 (&norms)[kCodeFragments]) {
  const float* all = reinterpret_cast<const float*>(tile + code_columns_bytes(depth));
#pragma unroll
  for (int j = 0; j < kCodeFragments; ++j) {
    norms[j] = *reinterpret_cast<const float2*>(all + first_code + fragment_column(lane, j, 0));
  }
}

// products += rows codes^T over the columns of one stage.
__device__ void multiply_stage(float (&products)[kRowFragments][4 * kCodeFragments],
                               const unsigned char* rows, const unsigned char* codes, int columns,
                               int lane) {
#pragma unroll
  for (int step = 0; step < kStageColumns / kDepthStep; ++step) {
    if (step * kDepthStep >= columns) break;
    const int unit = 2 * step + ldmatrix_unit(lane);
    uint32_t a[kRowFragments][4];
#pragma unroll
    for (int m = 0; m < kRowFragments; ++m) {
      ptx::load_matrices(a[m], rows + unit_offset(kRowPanel, unit, 16 * m + ldmatrix_row(lane)));
    }
#pragma unroll
    for (int pair = 0; pair < kCodeFragments / 2; ++pair) {
      // Matrices 0, 2 are the two units of eight codes, 1, 3 those of the next eight.
      uint32_t b[4];
      ptx::load_matrices(b, codes + unit_offset(kCodePanel, unit, 16 * pair + ldmatrix_row(lane)));
#pragma unroll
      for (int m = 0; m < kRowFragments; ++m) {
        ptx::multiply_accumulate(products[m] + 8 * pair, a[m], b[0], b[2]);
        ptx::multiply_accumulate(products[m] + 8 * pair + 4, a[m], b[1], b[3]);
      }
    }
  }
}

#endif

// kGroups: of a thread, which sees half a tile's columns.
template <int kGroups>
__global__ void __launch_bounds__(kThreads, 2) mma_kernel(SearchArgs args) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  unsigned char* const shared = ptx::dynamic_shared();
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int warp_row = warp / 2;
  const int warp_code = warp % 2;
  const int64_t row_tile = blockIdx.x % args.plan.row_tiles;
  const int64_t split = blockIdx.x / args.plan.row_tiles;
  const int64_t first_row = row_tile * kMmaRows + warp_row * kWarpRows;
  const int64_t first_tile = split * args.plan.tiles_per_split;
  const int64_t rest = args.plan.code_tiles - first_tile;
  const int64_t tiles = rest < args.plan.tiles_per_split ? rest : args.plan.tiles_per_split;

  const int depth = args.plan.depth;
  const unsigned char* codes = args.code_image + first_tile * code_panel_bytes(depth);
  const int per_tile = static_cast<int>(ceil_div(depth, kStageColumns));
  const int total = static_cast<int>(tiles) * per_tile;
  StageSource source{args.row_image + row_tile * (kMmaRows / kRowPanel) * row_panel_bytes(depth),
                     codes, depth, 0, total};

  // Not in registers, of which the products leave none to spare. They are read where a tile ends,
  // behind a barrier.
  float* const scales = reinterpret_cast<float*>(shared + kStages * kStageBytes);
  scales[threadIdx.x] = row_scale(args, row_tile * kMmaRows + threadIdx.x);
  ClassRecord<kGroups> records[kRowFragments][2];
#pragma unroll
  for (int m = 0; m < kRowFragments; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) records[m][half].clear();
  }

  for (int stage = 0; stage < kStages - 1; ++stage) {
    source.request_next(shared + stage * kStageBytes);
  }
  float products[kRowFragments][4 * kCodeFragments] = {};
  int rest_columns = depth;
  int tile = static_cast<int>(first_tile);
  int slot = 0;
  for (int stage = 0; stage < total; ++stage) {
    ptx::wait_for_copies<kStages - 2>();
    __syncthreads();  // everyone's copies have landed, and the stage before this one is free
    source.request_next(shared + (slot + kStages - 1) % kStages * kStageBytes);
    const bool last = rest_columns <= kStageColumns;
    // Read before the products that hide the wait; in shared memory they would keep a second block
    // from a consumer card's multiprocessor.
    float2 half_norms[kCodeFragments];
    if (last) half_norms_of(codes, depth, warp_code * kWarpCodes, lane, half_norms);
    const unsigned char* here = shared + slot * kStageBytes;
    multiply_stage(products, here + warp_row * kPanelBytes,
                   here + kRowBytes + warp_code * kWarpCodes * kUnitBytes, rest_columns, lane);
    if (last) {
#pragma unroll
      for (int m = 0; m < kRowFragments; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float scale = scales[warp_row * kWarpRows + 16 * m + fragment_row(lane, half)];
          fold_tile<kGroups, kWarpCodes>(
              &records[m][half], products[m], half, [&](int j) { return half_norms[j]; }, scale,
              tile);
        }
      }
#pragma unroll
      for (int m = 0; m < kRowFragments; ++m) {
#pragma unroll
        for (int i = 0; i < 4 * kCodeFragments; ++i) products[m][i] = 0.0f;
      }
      ++tile;
      codes += code_panel_bytes(depth);
    }
    rest_columns = last ? depth : rest_columns - kStageColumns;
    slot = slot == kStages - 1 ? 0 : slot + 1;
  }
  ptx::wait_for_copies<0>();

  // The two warps of a row have a loser each: they meet in shared memory.
  __syncthreads();
  float* const losers = reinterpret_cast<float*>(shared);
  const int classes = class_count(args.plan.classes);
#pragma unroll
  for (int m = 0; m < kRowFragments; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int panel_row = 16 * m + fragment_row(lane, half);
      const int64_t row = first_row + panel_row;
      const ClassRecord<kGroups>& record = records[m][half];
      const float loser = quad_min(record.loser);
      if (lane % 4 == 0) losers[warp_code * kMmaRows + warp_row * kWarpRows + panel_row] = loser;
      if (row >= args.num_rows) continue;
      ClassBest* out = args.records + (split * args.plan.chunk_rows + row) * classes;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        out[(warp_code * kGroups + g) * 4 + lane % 4] = ClassBest{record.best[g], record.tile[g]};
      }
    }
  }
  __syncthreads();
  const int64_t row = row_tile * kMmaRows + threadIdx.x;
  if (row < args.num_rows) {
    args.losers[split * args.plan.chunk_rows + row] =
        fminf(losers[threadIdx.x], losers[kMmaRows + threadIdx.x]);
  }
#endif
}

template <int kGroups>
cudaError_t launch_groups(const SearchArgs& args, cudaStream_t stream) {
  // Of the rows at hand: the last chunk may have fewer tiles than the plan's.
  SearchArgs now = args;
  now.plan.row_tiles = ceil_div(args.num_rows, kMmaRows);
  constexpr int kBytes = kStages * kStageBytes + kScaleBytes;
  return launch_shared(mma_kernel<kGroups>, now.plan.row_tiles * args.plan.splits, kThreads, kBytes,
                       kBytes, stream, now);
}

}  // namespace

bool mma_is_compiled() { return compiled_for(mma_kernel<1>, 80); }

cudaError_t search_mma(const SearchArgs& args, cudaStream_t stream) {
  return args.plan.classes.groups == 2 ? launch_groups<1>(args, stream)
                                       : launch_groups<2>(args, stream);
}

}  // namespace cuda
}  // namespace vqgan_fast
