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

// Rows::offset for the device, which has no instruction for a division.
VQGAN_FAST_HOST_DEVICE inline int64_t row_offset(const Rows& rows, int64_t row) {
  if (row < rows.inner_rows) return row * rows.inner_stride;
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
