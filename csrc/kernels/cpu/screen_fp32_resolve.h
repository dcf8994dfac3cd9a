// What the states of the fp32 screen leave of each row, as templates over a level's vectors; see
// screen_fp32_tiles.h, also for why they are in an anonymous namespace.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/cpu/screen_fp32.h"

namespace vqgan_fast {
namespace {

// A lane tells its best panel, not which of the panel's vectors it was. Where a row is short, its
// scores of that panel are cheaper than the distances of all those codes; a long row would wait for
// the panel to come from a far cache.
constexpr int64_t kMostFloatsRescored = 1024;

// The scores of one row in one panel, each summed in kParts parts: one sum alone would wait for its
// own last step.
template <class Simd, int kVectors, int kDim>
inline void score_panel(const float* x, int64_t any_dim, const float* panel,
                        typename Simd::Vector* score) {
  constexpr int kLanes = Simd::kLanes;
  constexpr int kParts = (kDim > 0 && kDim < 16) || kVectors > 4 ? 1 : kVectors > 2 ? 2 : 4;
  const int64_t dim = kDim > 0 ? kDim : any_dim;
  typename Simd::Vector part[kParts][kVectors];
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) {
    part[0][v] = Simd::load(panel + v * kLanes);
#pragma GCC unroll 16
    for (int i = 1; i < kParts; ++i) part[i][v] = Simd::zero();
  }
  const float* y = panel + kVectors * kLanes;
  int64_t d = 0;
  for (; d + kParts <= dim; d += kParts) {
#pragma GCC unroll 16
    for (int i = 0; i < kParts; ++i, y += kVectors * kLanes) {
      const auto row = Simd::broadcast(x + d + i);
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        part[i][v] = Simd::multiply_subtract(row, Simd::load(y + v * kLanes), part[i][v]);
      }
    }
  }
  for (; d < dim; ++d, y += kVectors * kLanes) {
    const auto row = Simd::broadcast(x + d);
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      part[0][v] = Simd::multiply_subtract(row, Simd::load(y + v * kLanes), part[0][v]);
    }
  }
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) {
    score[v] = part[0][v];
#pragma GCC unroll 16
    for (int i = 1; i < kParts; ++i) score[v] = Simd::add(score[v], part[i][v]);
  }
}

// Writes the places in the panel of the codes of one lane whose score is within the limit, or, for
// a long row, of all its codes, and returns how many there are.
template <class Simd, int kVectors, int kDim>
inline int codes_of_lane(const float* x, int64_t dim, const float* panel, int lane, float limit,
                         int32_t first, int32_t* found) {
  constexpr int kLanes = Simd::kLanes;
  constexpr int kWordVectors = 64 / kLanes;
  constexpr int kWords = (kVectors + kWordVectors - 1) / kWordVectors;
  constexpr uint64_t kFirstLanes = ~uint64_t{0} / ((uint64_t{1} << kLanes) - 1);
  typename Simd::Vector score[kVectors];
  if (dim * kVectors * kLanes <= kMostFloatsRescored) {
    score_panel<Simd, kVectors, kDim>(x, dim, panel, score);
  } else {
    limit = FLT_MAX;
    for (int v = 0; v < kVectors; ++v) score[v] = Simd::load(panel + v * kLanes);
  }
  const auto limits = Simd::broadcast(&limit);
  uint64_t words[kWords] = {};
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) {
    words[v / kWordVectors] |= static_cast<uint64_t>(Simd::at_most(score[v], limits))
                               << (v % kWordVectors * kLanes);
  }
  // As a rule it is one code, in any of the words: no branch asks in which.
  int count = 0;
  uint64_t more = 0;
  for (int w = 0; w < kWords; ++w) {
    words[w] &= kFirstLanes << lane;
    found[count] = first + w * 64 + __builtin_ctzll(words[w] | uint64_t{1} << 63);
    count += words[w] != 0;
    more |= words[w] & (words[w] - 1);
  }
  if (more == 0) return count;
  count = 0;
  for (int w = 0; w < kWords; ++w) {
    for (uint64_t word = words[w]; word != 0; word &= word - 1) {
      found[count++] = first + w * 64 + __builtin_ctzll(word);
    }
  }
  return count;
}

template <class Simd, int kVectors, int kDim>
void resolve(const float* x, int64_t num_rows, int64_t dim, const float* panels,
             const float* states, const float* margins, RowCandidates* out) {
  constexpr int kLanes = Simd::kLanes;
  constexpr int kCodes = kVectors * kLanes;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  // One step for all rows after the other: each is a chain of instructions that wait for each
  // other.
  float limits[CodeScreen::kMostRows];
  for (int64_t r = 0; r < num_rows; ++r) {
    limits[r] = Simd::lowest(Simd::load(states + r * 3 * kLanes));
  }
  for (int64_t r = 0; r < num_rows; ++r) {
    // Rounded up: the sum errs by half a unit in its last place.
    const float limit = limits[r] + margins[r];
    limits[r] = limit + (std::fabs(limit) * 0x1p-22f + FLT_MIN);
  }
  int32_t found[RowCandidates::kMost + kVectors];
  for (int64_t r = 0; r < num_rows; ++r) {
    const float* state = states + r * 3 * kLanes;
    RowCandidates& row = out[r];
    row.open = !(margins[r] < kInfinity);
    row.count = 0;
    if (!(limits[r] < kInfinity)) continue;  // no bound, or no finite code
    const auto limit = Simd::broadcast(limits + r);
    unsigned lanes = Simd::at_most(Simd::load(state), limit);
    row.open = Simd::at_most(Simd::load(state + kLanes), limit) != 0;
    int count = 0;
    for (; lanes != 0 && !row.open; lanes &= lanes - 1) {
      const int lane = __builtin_ctz(lanes);
      int32_t p;
      std::memcpy(&p, state + 2 * kLanes + lane, sizeof p);
      count +=
          codes_of_lane<Simd, kVectors, kDim>(x + r * dim, dim, panels + p * (1 + dim) * kCodes,
                                              lane, limits[r], p * kCodes, found + count);
      row.open = count > RowCandidates::kMost;
    }
    if (row.open) continue;
    row.count = count;
    for (int i = 0; i < count; ++i) row.codes[i] = found[i];
  }
}

}  // namespace
}  // namespace vqgan_fast
