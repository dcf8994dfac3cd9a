// Each pass sorts by one digit: every warp counts the digits of its 1024 rows, a scan over
// (digit, warp) turns counts into places, and every warp puts its rows there in their order.
// Nothing depends on which warp comes first.
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/code_order.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tiling.h"

namespace vqgan_fast {
namespace cuda {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kScanThreads = 1024;
constexpr int kStartsThreads = 256;

// Row at `position` of the order so far; a null order is the rows as they are.
__device__ int64_t row_at(const int64_t* order, int64_t position) {
  return order == nullptr ? position : order[position];
}

__device__ int digit_of(int64_t index, int64_t num_codes, int shift) {
  return static_cast<int>(sort_key(index, num_codes) >> shift) & (kRadix - 1);
}

// The rows of a lane at `first` + lane, 32 further, ..., and their digits, kRadix behind the last
// row. All are asked for before one is waited for: a warp is alone with how long that takes.
struct Batch {
  static constexpr int kSteps = 8;
  static constexpr int kRows = kSteps * kWarp;
  int64_t rows[kSteps];
  int digits[kSteps];

  __device__ Batch(const int64_t* indices, const int64_t* order, int64_t first, int64_t num_rows,
                   int64_t num_codes, int shift) {
    const int64_t position = first + threadIdx.x;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      rows[i] = position + i * kWarp < num_rows ? row_at(order, position + i * kWarp) : -1;
    }
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      digits[i] = rows[i] < 0 ? kRadix : digit_of(indices[rows[i]], num_codes, shift);
    }
  }
};
static_assert(kSortTile % Batch::kRows == 0, "a tile is whole batches");

// places[digit * num_tiles + tile] = how many rows of the tile have the digit.
__global__ void __launch_bounds__(kWarp)
    count_kernel(const int64_t* indices, const int64_t* order, int64_t num_rows, int64_t num_codes,
                 int shift, int64_t* places) {
  __shared__ int counts[kRadix + 1];  // one more for lanes behind the last row
  const int lane = threadIdx.x;
  for (int digit = lane; digit < kRadix; digit += kWarp) counts[digit] = 0;
  __syncwarp();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kSortTile;
  for (int i = 0; i < kSortTile; i += Batch::kRows) {
    const Batch batch(indices, order, first + i, num_rows, num_codes, shift);
#pragma unroll
    for (int step = 0; step < Batch::kSteps; ++step) atomicAdd(&counts[batch.digits[step]], 1);
  }
  __syncwarp();
  for (int digit = lane; digit < kRadix; digit += kWarp) {
    places[static_cast<int64_t>(digit) * gridDim.x + blockIdx.x] = counts[digit];
  }
}

// values[i] becomes the sum of all values before it. One block.
__global__ void __launch_bounds__(kScanThreads) scan_kernel(int64_t* values, int64_t count) {
  __shared__ int64_t sums[kScanThreads];
  const int thread = threadIdx.x;
  const int64_t share = ceil_div(count, kScanThreads);
  const int64_t begin = share * thread < count ? share * thread : count;
  const int64_t end = begin + share < count ? begin + share : count;
  int64_t total = 0;
  for (int64_t i = begin; i < end; ++i) total += values[i];
  sums[thread] = total;
  __syncthreads();
  for (int step = 1; step < kScanThreads; step *= 2) {
    const int64_t before = thread >= step ? sums[thread - step] : 0;
    __syncthreads();
    sums[thread] += before;
    __syncthreads();
  }
  int64_t running = sums[thread] - total;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t value = values[i];
    values[i] = running;
    running += value;
  }
}

// Puts the rows of one tile where count_kernel and scan_kernel found their places.
__global__ void __launch_bounds__(kWarp)
    scatter_kernel(const int64_t* indices, const int64_t* order, int64_t num_rows,
                   int64_t num_codes, int shift, const int64_t* places, int64_t* sorted) {
  __shared__ int64_t next[kRadix + 1];  // one more for lanes behind the last row
  const int lane = threadIdx.x;
  for (int digit = lane; digit < kRadix; digit += kWarp) {
    next[digit] = places[static_cast<int64_t>(digit) * gridDim.x + blockIdx.x];
  }
  if (lane == 0) next[kRadix] = 0;
  __syncwarp();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kSortTile;
  for (int i = 0; i < kSortTile; i += Batch::kRows) {
    const Batch batch(indices, order, first + i, num_rows, num_codes, shift);
#pragma unroll
    for (int step = 0; step < Batch::kSteps; ++step) {
      const int digit = batch.digits[step];
      const unsigned equals = __match_any_sync(kAllLanes, digit);
      const int rank = __popc(equals & ((1u << lane) - 1));  // lower lanes with this digit
      const int64_t place = next[digit] + rank;
      __syncwarp();
      if (rank == 0) next[digit] += __popc(equals);
      __syncwarp();
      if (digit != kRadix) sorted[place] = batch.rows[step];
    }
  }
}

// starts[k] = number of rows with a key below k, by bisection.
__global__ void __launch_bounds__(kStartsThreads)
    starts_kernel(const int64_t* indices, const int64_t* order, int64_t num_rows, int64_t num_codes,
                  int64_t* starts) {
  const int64_t code = static_cast<int64_t>(blockIdx.x) * kStartsThreads + threadIdx.x;
  if (code > num_codes) return;
  int64_t low = 0;
  int64_t high = num_rows;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (sort_key(indices[order[middle]], num_codes) < code) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  starts[code] = low;
}

}  // namespace

size_t code_order_workspace_bytes(int64_t num_rows, int64_t num_codes) {
  return sizeof(int64_t) * (2 * num_rows + num_codes + 1 + kRadix * ceil_div(num_rows, kSortTile));
}

cudaError_t order_by_code(const int64_t* indices, int64_t num_rows, int64_t num_codes,
                          void* workspace, CodeOrder* result, cudaStream_t stream) {
  int64_t* const buffers[2] = {static_cast<int64_t*>(workspace),
                               static_cast<int64_t*>(workspace) + num_rows};
  int64_t* const starts = buffers[1] + num_rows;
  int64_t* const places = starts + num_codes + 1;
  const int64_t tiles = ceil_div(num_rows, kSortTile);

  const int64_t* order = nullptr;
  for (int pass = 0; pass < sort_passes(num_codes); ++pass) {
    const int shift = pass * kRadixBits;
    int64_t* const sorted = buffers[pass % 2];
    cudaError_t error = launch(count_kernel, tiles, 1, kWarp, stream, indices, order, num_rows,
                               num_codes, shift, places);
    if (error != cudaSuccess) return error;
    error = launch(scan_kernel, 1, 1, kScanThreads, stream, places, kRadix * tiles);
    if (error != cudaSuccess) return error;
    error = launch(scatter_kernel, tiles, 1, kWarp, stream, indices, order, num_rows, num_codes,
                   shift, places, sorted);
    if (error != cudaSuccess) return error;
    order = sorted;
  }
  *result = CodeOrder{order, starts};
  return launch(starts_kernel, ceil_div(num_codes + 1, kStartsThreads), 1, kStartsThreads, stream,
                indices, order, num_rows, num_codes, starts);
}

}  // namespace cuda
}  // namespace vqgan_fast
