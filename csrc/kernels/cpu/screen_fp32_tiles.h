// The loops of the fp32 screen as templates over a level's vectors. Everything here is in an
// anonymous namespace, so that each level's file has copies of its own: one that were shared could
// be linked with the instructions of the widest level.
//
// A level's `Simd` has kLanes; Vector and Index (kLanes floats, int32s); load, store, broadcast,
// zero, add, multiply, min, max; multiply_subtract(a, b, c) = c - a b; lowest(v), the smallest
// lane; at_most(v, limit), a bit for each lane that is not above limit's; and replace(index, a, b,
// panel), index with panel in the lanes where a < b.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/cpu/screen_fp32.h"
#include "kernels/cpu/screen_fp32_resolve.h"

namespace vqgan_fast {
namespace {

// How a tile goes through a panel.
enum class Order {
  kDims,     // all scores of the tile in registers, one element of the rows after the other
  kVectors,  // all elements of the rows in registers, one vector of codes after the other
};

// Folds the panel's minimum over its vectors, one for each lane, into the state of a row. No branch
// and no blend of scores: the order of the panels is all that tells one from the other.
template <class Simd>
inline void take_minimum(typename Simd::Vector minimum, typename Simd::Index panel, float* state) {
  const auto best = Simd::load(state);
  const auto loser = Simd::load(state + Simd::kLanes);
  const auto index = Simd::load_index(state + 2 * Simd::kLanes);
  Simd::store_index(state + 2 * Simd::kLanes, Simd::replace(index, minimum, best, panel));
  Simd::store(state + Simd::kLanes, Simd::min(loser, Simd::max(minimum, best)));
  Simd::store(state, Simd::min(minimum, best));
}

// The pointer, of which the compiler knows nothing any more. Else GCC takes the addresses of all
// elements out of the loop over the panels and spills them.
template <class T>
inline T* opaque(T* p) {
  asm("" : "+r"(p));
  return p;
}

// kRows rows against the panels. kDim: dim if it is known, or 0.
template <class Simd, Order kOrder, int kRows, int kVectors, int kDim>
void scan_tile(const float* x, int64_t any_dim, const float* panels, int64_t num_panels,
               int32_t first, float* states) {
  using Vector = typename Simd::Vector;
  constexpr int kCodes = kVectors * Simd::kLanes;
  constexpr int kStateFloats = 3 * Simd::kLanes;
  const int64_t dim = kDim > 0 ? kDim : any_dim;
  const int64_t panel_floats = (1 + dim) * kCodes;

  if constexpr (kOrder == Order::kVectors) {
    Vector held[kRows][kDim];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int d = 0; d < kDim; ++d) held[r][d] = Simd::broadcast(x + r * kDim + d);
    }
    for (int64_t p = 0; p < num_panels; ++p) {
      const float* panel = panels + p * panel_floats;
      x = opaque(x);
      states = opaque(states);
      Vector minimum[kRows];
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        const Vector half_norm = Simd::load(panel + v * Simd::kLanes);
        Vector score[kRows];
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) score[r] = half_norm;
#pragma GCC unroll 16
        for (int d = 0; d < kDim; ++d) {
          const Vector y = Simd::load(panel + (1 + d) * kCodes + v * Simd::kLanes);
#pragma GCC unroll 16
          for (int r = 0; r < kRows; ++r) {
            score[r] = Simd::multiply_subtract(held[r][d], y, score[r]);
          }
        }
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          minimum[r] = v == 0 ? score[r] : Simd::min(minimum[r], score[r]);
        }
      }
      const auto index = Simd::broadcast_index(first + static_cast<int32_t>(p));
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        take_minimum<Simd>(minimum[r], index, states + r * kStateFloats);
      }
    }
  } else {
    for (int64_t p = 0; p < num_panels; ++p) {
      const float* panel = panels + p * panel_floats;
      x = opaque(x);
      states = opaque(states);
      Vector score[kRows][kVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        const Vector half_norm = Simd::load(panel + v * Simd::kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) score[r][v] = half_norm;
      }
      const float* y = panel + kCodes;
      for (int64_t d = 0; d < dim; ++d, y += kCodes) {
        Vector element[kRows];
        if constexpr (kRows <= kVectors) {
#pragma GCC unroll 16
          for (int r = 0; r < kRows; ++r) element[r] = Simd::broadcast(x + r * dim + d);
#pragma GCC unroll 16
          for (int v = 0; v < kVectors; ++v) {
            const Vector code = Simd::load(y + v * Simd::kLanes);
#pragma GCC unroll 16
            for (int r = 0; r < kRows; ++r) {
              score[r][v] = Simd::multiply_subtract(element[r], code, score[r][v]);
            }
          }
        } else {
          Vector code[kVectors];
#pragma GCC unroll 16
          for (int v = 0; v < kVectors; ++v) code[v] = Simd::load(y + v * Simd::kLanes);
#pragma GCC unroll 16
          for (int r = 0; r < kRows; ++r) {
            const Vector row = Simd::broadcast(x + r * dim + d);
#pragma GCC unroll 16
            for (int v = 0; v < kVectors; ++v) {
              score[r][v] = Simd::multiply_subtract(row, code[v], score[r][v]);
            }
          }
        }
      }
      const auto index = Simd::broadcast_index(first + static_cast<int32_t>(p));
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        Vector minimum = score[r][0];
#pragma GCC unroll 16
        for (int v = 1; v < kVectors; ++v) minimum = Simd::min(minimum, score[r][v]);
        take_minimum<Simd>(minimum, index, states + r * kStateFloats);
      }
    }
  }
}

// The rows that are left when the tiles of kRows + 1 rows are done, at most kRows.
template <class Simd, Order kOrder, int kRows, int kVectors, int kDim>
void scan_rest(const float* x, int64_t num_rows, int64_t dim, const float* panels,
               int64_t num_panels, int32_t first, float* states) {
  if (num_rows == kRows) {
    scan_tile<Simd, kOrder, kRows, kVectors, kDim>(x, dim, panels, num_panels, first, states);
  } else if constexpr (kRows > 1) {
    scan_rest<Simd, kOrder, kRows - 1, kVectors, kDim>(x, num_rows, dim, panels, num_panels, first,
                                                       states);
  }
}

template <class Simd, Order kOrder, int kRows, int kVectors, int kDim>
void scan(const float* x, int64_t num_rows, int64_t dim, const float* panels, int64_t num_panels,
          int32_t first, float* states) {
  // Each tile asks for its share of what follows the panels, for the next call to find it near.
  // Codebooks of short codes are near as they are.
  constexpr int64_t kLine = 64 / sizeof(float);
  const int64_t num_floats = num_panels * (1 + dim) * kVectors * Simd::kLanes;
  const int64_t share = num_floats * kRows / num_rows;
  const float* next = panels + num_floats;
  int64_t r = 0;
  for (; r + kRows <= num_rows; r += kRows) {
    if constexpr (kDim == 0) {
      for (int64_t i = 0; i < share; i += kLine) __builtin_prefetch(next + i, 0, 2);
      next += share;
    }
    scan_tile<Simd, kOrder, kRows, kVectors, kDim>(x + r * dim, dim, panels, num_panels, first,
                                                   states + r * 3 * Simd::kLanes);
  }
  if constexpr (kRows > 1) {
    scan_rest<Simd, kOrder, kRows - 1, kVectors, kDim>(
        x + r * dim, num_rows - r, dim, panels, num_panels, first, states + r * 3 * Simd::kLanes);
  }
}

template <class Simd, Order kOrder, int kRows, int kVectors, int kDim>
constexpr ScreenFp32Kernel kKernel = {Simd::kLanes, kVectors,
                                      scan<Simd, kOrder, kRows, kVectors, kDim>,
                                      resolve<Simd, kVectors, kDim>};

template <class Simd>
void prepare(const double* z, int64_t num_rows, int64_t dim, const double* centre,
             int64_t centre_rows, double scale, const Fp32Margin& margin, float* x,
             float* margins) {
  for (int64_t r = 0; r < num_rows; r += centre_rows) {
    const int64_t size = std::min(centre_rows, num_rows - r) * dim;
    for (int64_t i = 0; i < size; ++i) {
      x[r * dim + i] = static_cast<float>((z[r * dim + i] - centre[i]) * scale);
    }
  }
  for (int64_t r = 0; r < num_rows; ++r) {
    const float* row = x + r * dim;
    float norm2 = 0.0f;
    int64_t d = 0;
    if (dim >= Simd::kLanes) {
      auto sum = Simd::multiply(Simd::load(row), Simd::load(row));
      for (d = Simd::kLanes; d + Simd::kLanes <= dim; d += Simd::kLanes) {
        const auto v = Simd::load(row + d);
        sum = Simd::add(sum, Simd::multiply(v, v));
      }
      float lanes[Simd::kLanes];
      Simd::store(lanes, sum);
      for (int i = 0; i < Simd::kLanes; ++i) norm2 += lanes[i];
    }
    for (; d < dim; ++d) norm2 += row[d] * row[d];
    margins[r] = norm2;
  }
  for (int64_t r = 0; r < num_rows; ++r) {
    const float norm = std::sqrt(margins[r]);
    margins[r] = norm <= kMostRowNorm
                     ? margin.constant + norm * (margin.linear + norm * margin.square)
                     : std::numeric_limits<float>::infinity();
  }
}

template <class Simd>
void pack(const double* codes, int64_t num_codes, int64_t dim, const double* centre, double scale,
          int64_t panel_codes, float* out, double* norm2, float* max_abs) {
  constexpr int kLanes = Simd::kLanes;
  float largest[kLanes] = {};
  for (int i = 0; i < kLanes; ++i) norm2[i] = 0.0;
  for (int64_t d = 0; d < dim; ++d) {
    for (int i = 0; i < kLanes; ++i) {
      const double code = i < num_codes ? codes[i * dim + d] : centre[d];
      const float y = static_cast<float>((code - centre[d]) * scale);
      out[d * panel_codes + i] = y;
      norm2[i] += static_cast<double>(y) * y;
      largest[i] = std::max(largest[i], std::fabs(y));
    }
  }
  *max_abs = *std::max_element(largest, largest + kLanes);
}

}  // namespace
}  // namespace vqgan_fast
