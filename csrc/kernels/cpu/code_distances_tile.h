// The loop over codes in lanes, the same at every SIMD level. Everything here is in an unnamed
// namespace, so that each level keeps a copy of its own.
#pragma once

#include <cstdint>

#include "kernels/cpu/code_distances_kernels.h"

namespace vqgan_fast {
namespace {

// Simd names a level's vectors: kLanes in one, kVectors in a panel. Where a code has a NaN, its
// lane of the smallest may have one too, which is not above the limit: whoever is told looks
// closer.
template <class Simd>
typename Simd::Vector smallest(const typename Simd::Vector* distances) {
  static_assert(Simd::kVectors <= 2, "a NaN between two vectors would hide the first");
  typename Simd::Vector least = distances[0];
#pragma GCC unroll 4
  for (int v = 1; v < Simd::kVectors; ++v) least = Simd::lesser(least, distances[v]);
  return least;
}

template <class Simd, int kRows>
void measure_tile(const typename Simd::Scalar* rows, int64_t dim,
                  const typename Simd::Scalar* panels, int64_t num_panels,
                  const typename Simd::Scalar* limits, KeepDistances<typename Simd::Scalar> keep,
                  void* search, int64_t first_row, int64_t first_code) {
  constexpr int kVectors = Simd::kVectors;
  constexpr int kPanelCodes = Simd::kLanes * kVectors;
  typename Simd::Vector limit[kRows];
  for (int r = 0; r < kRows; ++r) limit[r] = Simd::broadcast(limits + r);
  for (int64_t p = 0; p < num_panels; ++p) {
    const typename Simd::Scalar* code = panels + p * dim * kPanelCodes;
    const typename Simd::Scalar* row = rows;
    typename Simd::Vector acc[kRows][kVectors];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[r][v] = Simd::zero();
    }
#pragma GCC unroll 2
    for (int64_t d = 0; d < dim; ++d, code += kPanelCodes, row += kRows) {
      typename Simd::Vector e[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) e[v] = Simd::load(code + v * Simd::kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const typename Simd::Vector z = Simd::broadcast(row + r);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          acc[r][v] = Simd::add_square(Simd::subtract(z, e[v]), acc[r][v]);
        }
      }
    }
    // Most panels have nothing to say for any row: one test for all of them.
    auto any = Simd::not_above(smallest<Simd>(acc[0]), limit[0]);
#pragma GCC unroll 16
    for (int r = 1; r < kRows; ++r) {
      any = Simd::either(any, Simd::not_above(smallest<Simd>(acc[r]), limit[r]));
    }
    if (!Simd::is_any(any)) continue;
    alignas(64) typename Simd::Scalar distances[kRows][kPanelCodes];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) Simd::store(distances[r] + v * Simd::kLanes, acc[r][v]);
    }
    for (int r = 0; r < kRows; ++r) {
      typename Simd::Vector row_distances[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        row_distances[v] = Simd::load(distances[r] + v * Simd::kLanes);
      }
      if (!Simd::is_any(Simd::not_above(smallest<Simd>(row_distances), limit[r]))) continue;
      const typename Simd::Scalar shorter =
          keep(search, first_row + r, first_code + p * kPanelCodes, kPanelCodes, distances[r]);
      limit[r] = Simd::broadcast(&shorter);
    }
  }
}

template <class Simd, int kRows = Simd::kTileRows>
void measure(const typename Simd::Scalar* rows, int num_rows, int64_t dim,
             const typename Simd::Scalar* panels, int64_t num_panels,
             const typename Simd::Scalar* limits, KeepDistances<typename Simd::Scalar> keep,
             void* search, int64_t first_row, int64_t first_code) {
  if constexpr (kRows > 1) {
    if (num_rows < kRows) {
      return measure<Simd, kRows - 1>(rows, num_rows, dim, panels, num_panels, limits, keep, search,
                                      first_row, first_code);
    }
  }
  measure_tile<Simd, kRows>(rows, dim, panels, num_panels, limits, keep, search, first_row,
                            first_code);
}

template <class Simd>
constexpr DirectKernel<typename Simd::Scalar> direct_kernel() {
  return {Simd::kLanes * Simd::kVectors, Simd::kTileRows, measure<Simd>};
}

}  // namespace
}  // namespace vqgan_fast
