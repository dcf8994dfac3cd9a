// The loops of the int16 and int8 screens for any instruction set. Included by
// screen_{int16,int8}_<level>.cpp alone; all of it has internal linkage, so that each level keeps
// its own copy.
//
// A level is a struct with kVectors, kLanes, kTileRows, kLeastDimToMark, kElements (that 32 bits
// hold), the vector types Int (int32 lanes), Real (doubles) and their operations.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/quantised_kernels.h"

namespace vqgan_fast {
namespace {

template <class Simd, int kRows, bool kSameShift, bool kMark>
void screen_rows(const QuantisedTile& tile) {
  using Int = typename Simd::Int;
  constexpr int kVectors = Simd::kVectors;
  constexpr int kPanelInts = kVectors * Simd::kLanes;  // int32s: some elements, or a norm
  constexpr bool kInt8 = Simd::kElements == 4;
  const int64_t num_steps = (tile.dim + Simd::kElements - 1) / Simd::kElements;
  const int16_t* codes = tile.codes;
  for (int64_t p = 0; p < tile.num_panels; ++p) {
    Int acc[kRows][kVectors];
    Int norm[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      norm[v] = Simd::load(tile.norms + p * kPanelInts + v * Simd::kLanes);
    }
    // What the scores of a row begin with: nothing compares those of different rows.
    const auto start = [&tile](Int squared_norm, int r) {
      const Int shifted = Simd::shift(squared_norm, tile.shifts + r);
      if constexpr (kInt8) return shifted;
      return Simd::add(shifted, Simd::broadcast(tile.biases[r]));
    };
    if constexpr (kSameShift) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) norm[v] = start(norm[v], 0);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) acc[r][v] = kSameShift ? norm[v] : start(norm[v], r);
    }
    const int16_t* x = tile.rows;
    int64_t i = 0;
    do {  // at least once: GCC 12 spills the accumulators of a loop that may have no steps
      Int e[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) e[v] = Simd::load_elements(codes + v * Simd::kLanes * 2);
      codes += kPanelInts * 2;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const Int x_r = Simd::broadcast_elements(x + r * tile.row_stride);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) acc[r][v] = Simd::dot(acc[r][v], e[v], x_r);
      }
      x += 2;
    } while (++i < num_steps);
    if constexpr (kMark) {
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        uint16_t* marks = tile.marks + r * tile.marks_stride + p * kVectors;
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          marks[v] = static_cast<uint16_t>(Simd::within(acc[r][v], tile.limits[r]));
        }
      }
    }
    if constexpr (kInt8) {
      const int64_t at = (tile.first_tag + p * kVectors) / kMinimaVectors * Simd::kLanes;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        int32_t* minima = tile.minima + r * tile.minima_stride + at;
        Int least = Simd::load(minima);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) least = Simd::min(least, acc[r][v]);
        Simd::store(minima, least);
      }
    }
    if constexpr (kInt8 || kMark) continue;
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
void screen_tile(const QuantisedTile& tile) {
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

template <class Simd>
MarkedCode* collect_marked(const int32_t* minima, const uint16_t* marks, int32_t first_code,
                           int64_t margin, int32_t* limit, MarkedCode* list) {
  typename Simd::Int least = Simd::load(minima);
  for (int i = 1; i < kMarkedVectors / kMinimaVectors; ++i) {
    least = Simd::min(least, Simd::load(minima + i * Simd::kLanes));
  }
  const int64_t lower = Simd::smallest(least) + margin;
  *limit = lower < *limit ? static_cast<int32_t>(lower) : *limit;
  for (uint64_t words = Simd::marked_words(marks); words != 0; words &= words - 1) {
    const int v = __builtin_ctzll(words);
    const int32_t* of_vector = minima + v / kMinimaVectors * Simd::kLanes;
    uint32_t bits = marks[v];
    do {  // nearly always once
      const int lane = __builtin_ctz(bits);
      *list++ = {first_code + v * Simd::kLanes + lane, of_vector[lane]};
      bits &= bits - 1;
    } while (__builtin_expect(bits != 0, 0));
  }
  return list;
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

// The largest |x - centre| of any element.
template <class Simd>
double largest_element(const double* x, const double* centre, int64_t dim) {
  using Real = typename Simd::Real;
  constexpr int64_t kReals = sizeof(Real) / sizeof(double);
  Real most[2] = {};
  int64_t d = 0;
  for (; d + 2 * kReals <= dim; d += 2 * kReals) {
    for (int i = 0; i < 2; ++i) {
      const Real centred = difference<Real>(x + d + i * kReals, centre + d + i * kReals);
      const Real size = centred < 0.0 ? -centred : centred;
      most[i] = most[i] < size ? size : most[i];
    }
  }
  double result = 0.0, second = 0.0;  // two chains: each comparison waits for the one before
  const auto take = [](double size, double* of) { *of = *of < size ? size : *of; };
  if (d > 0) {
    most[0] = most[0] < most[1] ? most[1] : most[0];
    for (int64_t i = 0; i < kReals; ++i) take(most[0][i], i % 2 == 0 ? &result : &second);
  }
  for (; d < dim; ++d) {
    const double centred = x[d] - centre[d];
    take(centred < 0.0 ? -centred : centred, d % 2 == 0 ? &result : &second);
  }
  take(second, &result);
  return result;
}

// --- Where quads lie

inline int64_t quads_row_elements(int64_t dim) { return (dim + 63) / 64 * 32; }
inline int64_t quads_code_elements(int64_t dim) { return (dim + 3) / 4 * 2; }

// The bytes behind the last element are 0 from the start.
inline double place_row_of_quads(const int16_t* q, int64_t dim, int16_t* rows, int64_t r) {
  auto* to = reinterpret_cast<int8_t*>(rows + r * quads_row_elements(dim));
  for (int64_t d = 0; d < dim; ++d) to[d] = static_cast<int8_t>(q[d]);
  return 0.0;
}

template <class Simd>
double place_code_of_quads(const int16_t* q, int64_t dim, int16_t* panel, int64_t k) {
  constexpr int64_t kPanelBytes = Simd::kVectors * Simd::kLanes * 4, kBytes = 64;
  auto* to = reinterpret_cast<uint8_t*>(panel) + k * 4;
  for (int64_t d = 0; d < dim; d += kBytes) {
    const int64_t count = dim - d < kBytes ? dim - d : kBytes;
    uint8_t bytes[kBytes] = {};
    for (int64_t i = 0; i < count; ++i) bytes[i] = static_cast<uint8_t>(q[d + i] + 128);
    for (int64_t i = 0; i < count; i += 4, to += kPanelBytes) std::memcpy(to, bytes + i, 4);
  }
  return 0.0;
}

template <class Simd>
constexpr QuantisedKernels make_kernels() {
  QuantisedKernels kernels = {};
  kernels.vectors = Simd::kVectors;
  kernels.lanes = Simd::kLanes;
  kernels.tile_rows = Simd::kTileRows;
  if constexpr (Simd::kElements == 2) kernels.screen = screen_tile<Simd>;
  if constexpr (Simd::kElements == 4) kernels.collect = collect_marked<Simd>;
  kernels.mark = screen_tile<Simd, true>;
  kernels.least_dim_to_mark = Simd::kLeastDimToMark;
  kernels.smallest = smallest_lane<Simd>;
  kernels.within = lanes_within<Simd>;
  kernels.norm2 = centred_norm2<Simd>;
  kernels.quantise = quantise_row<Simd>;
  if constexpr (Simd::kElements == 4) {
    kernels.layout = QuantisedLayout::kQuads;
    kernels.bytes = {nullptr,
                     nullptr,
                     quads_row_elements,
                     quads_code_elements,
                     largest_element<Simd>,
                     place_row_of_quads,
                     place_code_of_quads<Simd>};
  }
  return kernels;
}

}  // namespace
}  // namespace vqgan_fast
