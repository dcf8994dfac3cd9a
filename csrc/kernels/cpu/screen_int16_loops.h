// The loops of the int16 screen for any instruction set. Included by screen_int16_<level>.cpp
// alone; all of it has internal linkage, so that each level keeps its own copy.
//
// A level is a struct with kVectors, kLanes, kTileRows, kLeastDimToMark, the vector types Int
// (int32 lanes), Real (doubles) and their operations.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/cpu/screen_int16.h"

namespace vqgan_fast {
namespace {

template <class Simd, int kRows, bool kSameShift, bool kMark>
void screen_rows(const Int16Tile& tile) {
  using Int = typename Simd::Int;
  constexpr int kVectors = Simd::kVectors;
  constexpr int kPanelInts = kVectors * Simd::kLanes;  // int32s: a pair of elements, or a norm
  const int64_t num_pairs = (tile.dim + 1) / 2;
  const int16_t* codes = tile.codes;
  for (int64_t p = 0; p < tile.num_panels; ++p) {
    Int acc[kRows][kVectors];
    Int norm[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      norm[v] = Simd::load(tile.norms + p * kPanelInts + v * Simd::kLanes);
    }
    if constexpr (kSameShift) {
      const Int bias = Simd::broadcast(*tile.biases);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        norm[v] = Simd::add(Simd::shift(norm[v], tile.shifts), bias);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Int bias = Simd::broadcast(tile.biases[r]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        acc[r][v] = kSameShift ? norm[v] : Simd::add(Simd::shift(norm[v], tile.shifts + r), bias);
      }
    }
    const int16_t* x = tile.rows;
    int64_t i = 0;
    do {  // at least once: GCC 12 spills the accumulators of a loop that may have no steps
      Int e[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) e[v] = Simd::load_pairs(codes + v * Simd::kLanes * 2);
      codes += kPanelInts * 2;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const Int pair = Simd::broadcast_pair(x + r * tile.row_stride);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) acc[r][v] = Simd::dot(acc[r][v], e[v], pair);
      }
      x += 2;
    } while (++i < num_pairs);
    if constexpr (kMark) {
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        uint16_t* marks = tile.marks + r * tile.marks_stride + p * kVectors;
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          marks[v] = static_cast<uint16_t>(Simd::within(acc[r][v], tile.limits[r]));
        }
      }
      continue;
    }
    Int tag[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      tag[v] = Simd::broadcast(tile.first_tag + static_cast<int32_t>(p) * kVectors + v);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      int32_t* state = tile.state + r * 2 * Simd::kLanes;
      Int best = Simd::load(state);
      Int loser = Simd::load(state + Simd::kLanes);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const Int score = Simd::replace_low_bits(acc[r][v], tag[v]);
        loser = Simd::min(loser, Simd::max(best, score));
        best = Simd::min(best, score);
      }
      Simd::store(state, best);
      Simd::store(state + Simd::kLanes, loser);
    }
  }
}

// A tile with fewer rows than fit has loops of its own: no row is computed in vain.
template <class Simd, bool kMark = false, int kRows = Simd::kTileRows>
void screen_tile(const Int16Tile& tile) {
  if constexpr (kRows > 0) {
    if (tile.num_rows == kRows) {
      return tile.same_shift ? screen_rows<Simd, kRows, true, kMark>(tile)
                             : screen_rows<Simd, kRows, false, kMark>(tile);
    }
    screen_tile<Simd, kMark, kRows - 1>(tile);
  }
}

template <class Simd>
int32_t smallest_lane(const int32_t* lanes) {
  return Simd::smallest(Simd::load(lanes));
}

template <class Simd>
uint32_t lanes_within(const int32_t* lanes, int32_t limit) {
  return Simd::within(Simd::load(lanes), limit);
}

// x - centre, as many elements as a vector holds.
template <class Real>
Real difference(const double* x, const double* centre) {
  Real a, c;
  std::memcpy(&a, x, sizeof a);
  std::memcpy(&c, centre, sizeof c);
  return a - c;
}

template <class Simd>
double centred_norm2(const double* x, const double* centre, int64_t dim) {
  using Real = typename Simd::Real;
  constexpr int64_t kReals = sizeof(Real) / sizeof(double);
  Real acc[2] = {};  // two chains: each sum waits for the one before
  int64_t d = 0;
  for (; d + 2 * kReals <= dim; d += 2 * kReals) {
    for (int i = 0; i < 2; ++i) {
      const Real centred = difference<Real>(x + d + i * kReals, centre + d + i * kReals);
      acc[i] += centred * centred;
    }
  }
  double sum = 0.0;
  for (int64_t i = 0; i < kReals; ++i) sum += acc[0][i] + acc[1][i];
  for (; d < dim; ++d) sum += (x[d] - centre[d]) * (x[d] - centre[d]);
  return sum;
}

template <class Simd>
double quantise_row(const double* x, const double* centre, double scale, int64_t dim, int16_t* q) {
  using Real = typename Simd::Real;
  using Short = typename Simd::Short;
  constexpr int64_t kReals = sizeof(Real) / sizeof(double);
  // Adding it to a smaller number leaves no bits behind the point; the CPU's own rounding mode.
  constexpr double kRound = 0x1.8p52;
  Real acc[2] = {};
  int64_t d = 0;
  for (; d + 2 * kReals <= dim; d += 2 * kReals) {
    for (int i = 0; i < 2; ++i) {
      const Real scaled = difference<Real>(x + d + i * kReals, centre + d + i * kReals) * scale;
      const Real rounded = (scaled + kRound) - kRound;
      acc[i] += (rounded - scaled) * (rounded - scaled);
      const Short narrow = Simd::narrow(rounded);
      std::memcpy(q + d + i * kReals, &narrow, kReals * sizeof(int16_t));
    }
  }
  double sum = 0.0;
  for (int64_t i = 0; i < kReals; ++i) sum += acc[0][i] + acc[1][i];
  for (; d < dim; ++d) {
    const double scaled = (x[d] - centre[d]) * scale;
    const double rounded = (scaled + kRound) - kRound;
    sum += (rounded - scaled) * (rounded - scaled);
    q[d] = static_cast<int16_t>(rounded);
  }
  return sum;
}

template <class Simd>
constexpr ScreenInt16Kernels make_kernels() {
  ScreenInt16Kernels kernels = {};
  kernels.vectors = Simd::kVectors;
  kernels.lanes = Simd::kLanes;
  kernels.tile_rows = Simd::kTileRows;
  kernels.screen = screen_tile<Simd>;
  kernels.mark = screen_tile<Simd, true>;
  kernels.least_dim_to_mark = Simd::kLeastDimToMark;
  kernels.smallest = smallest_lane<Simd>;
  kernels.within = lanes_within<Simd>;
  kernels.norm2 = centred_norm2<Simd>;
  kernels.quantise = quantise_row<Simd>;
  return kernels;
}

}  // namespace
}  // namespace vqgan_fast
