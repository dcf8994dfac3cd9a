// Index arithmetic and launch plans of the CUDA kernels: what host and device compute alike, in a
// header that any C++ compiler takes, so that it can be tested without a GPU.
#pragma once

#include <cstdint>

#include "kernels/cpu/rows.h"

#ifdef __CUDACC__
#define VQGAN_FAST_HOST_DEVICE __host__ __device__
#else
#define VQGAN_FAST_HOST_DEVICE
#endif

namespace vqgan_fast {

VQGAN_FAST_HOST_DEVICE inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows::offset for the device.
VQGAN_FAST_HOST_DEVICE inline int64_t row_offset(const Rows& rows, int64_t row) {
  return row / rows.inner_rows * rows.outer_stride + row % rows.inner_rows * rows.inner_stride;
}

// --- nearest_code

// The nearest code found so far; code < 0: none yet.
struct Nearest {
  double distance;
  int64_t code;
};

// Takes up one more code. Codes must come in ascending order, so that a tie keeps the lowest; a NaN
// never wins, an infinite distance does where there is nothing better.
VQGAN_FAST_HOST_DEVICE inline void take_code(Nearest* best, double distance, int64_t code) {
  const bool first = best->code < 0 && distance == distance;
  if (first || distance < best->distance) *best = Nearest{distance, code};
}

// The nearer of two candidates, in any order: the lower code on a tie.
VQGAN_FAST_HOST_DEVICE inline Nearest nearer(const Nearest& a, const Nearest& b) {
  if (b.code < 0) return a;
  if (a.code < 0) return b;
  if (a.distance != b.distance) return a.distance < b.distance ? a : b;
  return a.code < b.code ? a : b;
}

constexpr int kRowTile = 64;   // rows of a block
constexpr int kCodeTile = 64;  // codes that a block takes at a time

// One block for each (row tile, split); a split is a range of codes_per_split codes.
struct NearestCodePlan {
  int64_t row_tiles;
  int64_t splits;
  int64_t codes_per_split;  // a multiple of kCodeTile
};

// Few rows are no work for a whole GPU, so their codes are split until there are two blocks for
// each multiprocessor. Splits never change the result: `nearer` does not depend on the order.
inline NearestCodePlan plan_nearest_code(int64_t num_rows, int64_t num_codes,
                                         int64_t multiprocessors) {
  NearestCodePlan plan;
  plan.row_tiles = ceil_div(num_rows, kRowTile);
  const int64_t code_tiles = ceil_div(num_codes, kCodeTile);
  const int64_t wanted = ceil_div(2 * multiprocessors, plan.row_tiles);
  const int64_t tiles_per_split = ceil_div(code_tiles, wanted < code_tiles ? wanted : code_tiles);
  plan.codes_per_split = tiles_per_split * kCodeTile;
  plan.splits = ceil_div(code_tiles, tiles_per_split);
  return plan;
}

// --- order of rows by code

constexpr int kRadixBits = 8;
constexpr int kRadix = 1 << kRadixBits;
constexpr int kSortTile = 1024;  // rows that one warp sorts

// A row whose index is no code sorts behind all codes.
VQGAN_FAST_HOST_DEVICE inline int64_t sort_key(int64_t index, int64_t num_codes) {
  return index >= 0 && index < num_codes ? index : num_codes;
}

// Digits that keys 0 .. num_codes have.
inline int sort_passes(int64_t num_codes) {
  int passes = 1;
  while (num_codes >> (passes * kRadixBits) > 0) ++passes;
  return passes;
}

}  // namespace vqgan_fast
