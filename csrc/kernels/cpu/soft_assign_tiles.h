// The loops of soft_assign as templates over a level's vectors; soft_assign_math.h says what a
// level has to offer. Everything is in an anonymous namespace, so that each level's file has copies
// of its own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "kernels/cpu/soft_assign_loops.h"
#include "kernels/cpu/soft_assign_math.h"
#include "kernels/philox.h"

namespace vqgan_fast {
namespace {

// kRows rows of x times kVectors vectors of the columns of a panel, which has `panel_columns`.
template <class Simd, int kRows, int kVectors, bool kAdd, class Column>
inline void multiply_tile(const typename Simd::Scalar* x, int64_t stride, const Column* panel,
                          int64_t panel_columns, int64_t inner, typename Simd::Scalar* out,
                          int64_t out_stride) {
  using Vector = typename Simd::Vector;
  Vector sum[kRows][kVectors] = {};
  for (int64_t i = 0; i < inner; ++i, panel += panel_columns) {
    Vector column[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) column[v] = Simd::load(panel + v * Simd::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vector element = Simd::broadcast(x[r * stride + i]);
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] = Simd::multiply_add(element, column[v], sum[r][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      auto* place = out + r * out_stride + v * Simd::kLanes;
      Simd::store(place, kAdd ? Simd::load(place) + sum[r][v] : sum[r][v]);
    }
  }
}

template <class Simd, int kRows, int kVectors, bool kAdd>
void multiply_panels(const typename Simd::Scalar* x, int64_t stride, int64_t num_rows,
                     const typename Simd::Scalar* panels, int64_t inner, int64_t num_panels,
                     typename Simd::Scalar* out, int64_t out_stride) {
  static_assert(kSoftRowStep % kRows == 0, "whole tiles only");
  constexpr int kPanel = kVectors * Simd::kLanes;
  for (int64_t p = 0; p < num_panels; ++p) {
    for (int64_t r = 0; r < num_rows; r += kRows) {
      multiply_tile<Simd, kRows, kVectors, kAdd>(x + r * stride, stride,
                                                 panels + p * inner * kPanel, kPanel, inner,
                                                 out + r * out_stride + p * kPanel, out_stride);
    }
  }
}

template <class Simd, int kRows, int kVectors>
void multiply(const typename Simd::Scalar* x, int64_t stride, int64_t num_rows,
              const typename Simd::Scalar* panels, int64_t inner, int64_t num_panels,
              typename Simd::Scalar* tile) {
  multiply_panels<Simd, kRows, kVectors, false>(x, stride, num_rows, panels, inner, num_panels,
                                                tile, kSoftBlockColumns);
}

// The same in fp64, for the panels of a level whose vectors have twice as many lanes as `Wide`.
template <class Wide, int kRows, int kVectors>
void multiply_wide(const double* x, int64_t stride, int64_t num_rows, const float* panels,
                   int64_t inner, int64_t num_panels, double* tile) {
  constexpr int kHalf = kVectors * Wide::kLanes;
  for (int64_t p = 0; p < num_panels; ++p, panels += inner * 2 * kHalf, tile += 2 * kHalf) {
    for (int64_t r = 0; r < num_rows; r += kRows) {
      for (int half = 0; half < 2 * kHalf; half += kHalf) {
        multiply_tile<Wide, kRows, kVectors, false>(
            x + r * stride, stride, panels + half, 2 * kHalf, inner,
            tile + r * kSoftBlockColumns + half, kSoftBlockColumns);
      }
    }
  }
}

template <class Simd>
inline typename Simd::Scalar sum_of_lanes(typename Simd::Vector v) {
  typename Simd::Scalar sum = v[0];
  for (int i = 1; i < Simd::kLanes; ++i) sum += v[i];
  return sum;
}

template <class Simd>
typename Simd::Scalar logits(typename Simd::Scalar* row, int64_t n, typename Simd::Scalar scale,
                             const typename Simd::Scalar* add, const typename Simd::Noise* noise) {
  using Vector = typename Simd::Vector;
  const Vector factor = Simd::broadcast(scale);
  Vector largest = Simd::broadcast(-HUGE_VALF);
  for (int64_t j = 0; j < n; j += Simd::kLanes) {
    Vector x = Simd::multiply_add(Simd::load(row + j), factor, Simd::load(add + j));
    if (noise != nullptr) x = x + Simd::load(noise + j);
    Simd::store(row + j, x);
    largest = Simd::max(x, largest);
  }
  typename Simd::Scalar result = largest[0];
  for (int i = 1; i < Simd::kLanes; ++i) result = std::max(result, largest[i]);
  return result;
}

template <class Wide>
void narrow(const double* row, int64_t n, double add, float* out) {
  const auto shift = Wide::broadcast(add);
  for (int64_t j = 0; j < n; j += Wide::kLanes) {
    Wide::store_narrow(out + j, Wide::load(row + j) + shift);
  }
}

// `Wide` loads the numbers as doubles; n is a multiple of twice its lanes.
template <class Wide, class T>
double sum_in_fp64(const T* row, int64_t n) {
  typename Wide::Vector sums[2] = {};
  for (int64_t j = 0; j < n; j += 2 * Wide::kLanes) {
    sums[0] = sums[0] + Wide::load(row + j);
    sums[1] = sums[1] + Wide::load(row + j + Wide::kLanes);
  }
  return sum_of_lanes<Wide>(sums[0] + sums[1]);
}

// The sum is in fp64 because beside the largest exponential, which is 1, the others may be so small
// that fp32 would lose them, and with them an entropy near 0.
template <class Simd, class Wide>
double exponentials(typename Simd::Scalar* row, int64_t n, typename Simd::Scalar largest,
                    typename Simd::Scalar* weighted) {
  using Vector = typename Simd::Vector;
  const Vector shift = Simd::broadcast(largest);
  const Vector least = Simd::broadcast(Simd::kLeastLog);  // 0 times it is 0
  Vector weighted_sums = {};
  for (int64_t j = 0; j < n; j += Simd::kLanes) {
    const Vector x = Simd::max(least, Simd::load(row + j) - shift);
    const Vector p = exponential<Simd>(x);
    Simd::store(row + j, p);
    weighted_sums = Simd::multiply_add(p, x, weighted_sums);
  }
  *weighted = sum_of_lanes<Simd>(weighted_sums);
  return sum_in_fp64<Wide>(row, n);
}

template <class Simd>
void rescale(typename Simd::Scalar* row, int64_t n, typename Simd::Scalar factor) {
  const auto factors = Simd::broadcast(factor);
  for (int64_t j = 0; j < n; j += Simd::kLanes) Simd::store(row + j, Simd::load(row + j) * factors);
}

template <class Simd, class Wide>
double probabilities(typename Simd::Scalar* row, int64_t n, typename Simd::Scalar scale,
                     typename Simd::Scalar row_add, const typename Simd::Scalar* add,
                     const typename Simd::Scalar* noise, const typename Simd::Scalar* factor) {
  using Vector = typename Simd::Vector;
  const Vector scales = Simd::broadcast(scale), shift = Simd::broadcast(row_add);
  for (int64_t j = 0; j < n; j += Simd::kLanes) {
    Vector x = Simd::load(row + j);
    if (add != nullptr) {
      x = Simd::multiply_add(x, scales, Simd::load(add + j)) + shift;
      if (noise != nullptr) x = x + Simd::load(noise + j);
    }
    Simd::store(row + j, exponential<Simd>(x) * Simd::load(factor + j));
  }
  return sum_in_fp64<Wide>(row, n);
}

template <class Simd>
typename Simd::Scalar gradients(const SoftGradientRow<typename Simd::Scalar>& row, int64_t n,
                                typename Simd::Scalar* products, typename Simd::Scalar* values) {
  using Vector = typename Simd::Vector;
  const Vector factor = Simd::broadcast(row.scale), shift = Simd::broadcast(row.add);
  const Vector excess = Simd::broadcast(row.excess);
  const Vector term = Simd::broadcast(row.term), term_low = Simd::broadcast(row.term_low);
  const Vector entropy = Simd::broadcast(row.entropy);
  const Vector least = Simd::broadcast(Simd::kLeastLog);
  Vector sum = {};
  for (int64_t j = 0; j < n; j += Simd::kLanes) {
    Vector u = Simd::load(products + j);
    if (row.column_add != nullptr) {
      const Vector column = Simd::load(row.column_add + j);
      u = row.add_first ? Simd::multiply_add(u, factor, shift) + column
                        : Simd::multiply_add(u, factor, column) + shift;
      if (row.noise != nullptr) u = u + Simd::load(row.noise + j);
    }
    u = Simd::max(least, u);
    const Vector p = exponential<Simd>(u - (excess + Simd::load(row.column_excess + j)));
    Vector t =
        (term + Simd::load(row.column_term + j)) + (term_low + Simd::load(row.column_term_low + j));
    if (values != nullptr) {
      t = t + Simd::load(values + j);
      Simd::store(values + j, p);
    }
    t = Simd::multiply_add(-(entropy + Simd::load(row.column_entropy + j)), u, t);
    const Vector gradient = p * t;
    Simd::store(products + j, gradient);
    sum = sum + gradient;
  }
  return sum_of_lanes<Simd>(sum);
}

// The elements of two vectors in turn: of their first halves, or from element kFirst on.
template <class Simd, int kFirst, int... kLanes>
inline typename Simd::Vector interleave(typename Simd::Vector a, typename Simd::Vector b,
                                        std::integer_sequence<int, kLanes...>) {
  return __builtin_shufflevector(a, b, (kFirst + kLanes / 2 + kLanes % 2 * Simd::kLanes)...);
}

template <class Simd>
inline typename Simd::Words lane_numbers() {
  typename Simd::Words lanes;
  for (int i = 0; i < Simd::kLanes; ++i) lanes[i] = static_cast<uint32_t>(i);
  return lanes;
}

template <class Simd>
void noise_of_codes(uint64_t seed, uint64_t row, uint64_t first, int64_t n, float scale,
                    float* out) {
  using Vector = typename Simd::Vector;
  constexpr int kLanes = Simd::kLanes;
  constexpr auto kAll = std::make_integer_sequence<int, kLanes>();
  const typename Simd::Words zero = {};
  for (int64_t j = 0; j < n; j += 4 * kLanes) {
    const auto group = static_cast<uint32_t>((first + static_cast<uint64_t>(j)) / 4);
    typename Simd::Words words[4] = {lane_numbers<Simd>() + group,
                                     zero + static_cast<uint32_t>(row),
                                     zero + static_cast<uint32_t>(row >> 32), zero};
    philox(words, seed, Simd::multiply_words);
    Vector g[4];
    for (int i = 0; i < 4; ++i) g[i] = gumbel<Simd>(words[i]) * scale;
    const Vector even[2] = {interleave<Simd, 0>(g[0], g[2], kAll),
                            interleave<Simd, kLanes / 2>(g[0], g[2], kAll)};
    const Vector odd[2] = {interleave<Simd, 0>(g[1], g[3], kAll),
                           interleave<Simd, kLanes / 2>(g[1], g[3], kAll)};
    for (int i = 0; i < 2; ++i) {
      Simd::store(out + j + 2 * i * kLanes, interleave<Simd, 0>(even[i], odd[i], kAll));
      Simd::store(out + j + (2 * i + 1) * kLanes,
                  interleave<Simd, kLanes / 2>(even[i], odd[i], kAll));
    }
  }
}

template <class Simd>
void noise_of_rows(uint64_t seed, uint64_t first, uint64_t row, int64_t n, float scale,
                   float* out) {
  const typename Simd::Words zero = {};
  for (int64_t j = 0; j < n; j += Simd::kLanes) {
    typename Simd::Words words[4] = {zero + static_cast<uint32_t>(first / 4),
                                     lane_numbers<Simd>() + static_cast<uint32_t>(row + j),
                                     zero + static_cast<uint32_t>(row >> 32), zero};
    philox(words, seed, Simd::multiply_words);
    for (int i = 0; i < 4; ++i) {
      Simd::store(out + i * kSoftBlockColumns + j, gumbel<Simd>(words[i]) * scale);
    }
  }
}

// `Wide` has the level's vectors of doubles.
template <class Simd, class Wide, int kRows, int kVectors>
constexpr SoftAssignLoops<float> kLoops = {
    kVectors * Simd::kLanes,
    multiply<Simd, kRows, kVectors>,
    multiply_panels<Simd, kRows, kVectors, true>,
    multiply_wide<Wide, kRows, kVectors>,
    logits<Simd>,
    logits<Wide>,
    narrow<Wide>,
    exponentials<Simd, Wide>,
    rescale<Simd>,
    probabilities<Simd, Wide>,
    gradients<Simd>,
    noise_of_codes<Simd>,
    noise_of_rows<Simd>,
};

}  // namespace
}  // namespace vqgan_fast
