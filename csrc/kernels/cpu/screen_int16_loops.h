// The loops of the int16 screen for any instruction set. Included by screen_int16_<level>.cpp
// alone; all of it has internal linkage, so that each level keeps its own copy.
//
// A level is a struct with kVectors, kLanes, kTileRows, the vector types Int (int32 lanes), Real
// (doubles) and their operations.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/cpu/screen_int16.h"

namespace vqgan_fast {
namespace {

template <class Simd, int kRows>
void screen_rows(const Int16Tile& tile) {
  using Int = typename Simd::Int;
  constexpr int kVectors = Simd::kVectors;
  constexpr int kPanelInts = kVectors * Simd::kLanes;  // int32s: a pair of elements, or a norm
  const int64_t num_pairs = tile.num_pairs;
  const int16_t* codes = tile.codes;
  for (int64_t p = 0; p < tile.num_panels; ++p) {
    Int acc[kRows][kVectors];
    Int norm[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      norm[v] = Simd::load(tile.norms + p * kPanelInts + v * Simd::kLanes);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) acc[r][v] = Simd::shift(norm[v], tile.shifts + r);
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
template <class Simd, int kRows = Simd::kTileRows>
void screen_tile(const Int16Tile& tile) {
  if constexpr (kRows > 0) {
    if (tile.num_rows == kRows) return screen_rows<Simd, kRows>(tile);
    screen_tile<Simd, kRows - 1>(tile);
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

template <class Simd>
double centred_norm2(const double* x, const double* centre, int64_t dim) {
  using Real = typename Simd::Real;
  constexpr int64_t kReals = sizeof(Real) / sizeof(double);
  Real acc[2] = {};  // two chains: each sum waits for the one before
  int64_t d = 0;
  for (; d + 2 * kReals <= dim; d += 2 * kReals) {
    for (int i = 0; i < 2; ++i) {
      Real a, c;
      std::memcpy(&a, x + d + i * kReals, sizeof a);
      std::memcpy(&c, centre + d + i * kReals, sizeof c);
      acc[i] += (a - c) * (a - c);
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
      Real a, c;
      std::memcpy(&a, x + d + i * kReals, sizeof a);
      std::memcpy(&c, centre + d + i * kReals, sizeof c);
      const Real scaled = (a - c) * scale;
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
  return {Simd::kVectors,      Simd::kLanes,       Simd::kTileRows,     screen_tile<Simd>,
          smallest_lane<Simd>, lanes_within<Simd>, centred_norm2<Simd>, quantise_row<Simd>};
}

}  // namespace
}  // namespace vqgan_fast
