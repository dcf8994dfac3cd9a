// The loop for few rows over codes as they lie in memory, elements in lanes, the same at every SIMD
// level: with so few rows, laying the codes into panels would cost more than measuring them.
// Everything here is in an unnamed namespace, so that each level keeps a copy of its own.
#pragma once

#include <cstdint>

#include "kernels/cpu/code_distances_kernels.h"

namespace vqgan_fast {
namespace {

// Sums side by side: enough to hide the latency of an addition, and few enough for 16 registers.
constexpr int kSums = 8;

// Across names a level's vectors of kLanes elements. Fills acc with the squared differences of each
// of kRows rows to each of kSums / kRows codes. With kAhead, what follows at `next` is asked for
// meanwhile.
template <class Across, class Read, int kRows, bool kAhead>
[[gnu::always_inline]] inline void sum_squares(const float* rows, int64_t row_size, int64_t dim,
                                               const typename Read::Element* const* e,
                                               const char* next, typename Across::Vector* acc) {
  using Element = typename Read::Element;
  constexpr int kLanes = Across::kLanes;
  constexpr int kCodes = kSums / kRows;
  const int64_t whole = dim / kLanes * kLanes;
#pragma GCC unroll 8
  for (int i = 0; i < kSums; ++i) acc[i] = Across::zero();
  const auto add = [&](int64_t d, const auto& load) {
    typename Across::Vector z[kRows];
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) z[r] = Across::load_row(rows + r * row_size + d);
#pragma GCC unroll 8
    for (int c = 0; c < kCodes; ++c) {
      const typename Across::Vector code = load(e[c] + d);
#pragma GCC unroll 2
      for (int r = 0; r < kRows; ++r) {
        acc[r * kCodes + c] = Across::add_square(z[r] - code, acc[r * kCodes + c]);
      }
    }
  };
  for (int64_t d = 0; d < whole; d += kLanes) {
    add(d, [](const Element* p) { return Across::template load<Read>(p); });
    if constexpr (kAhead) {
      constexpr int kBytes = kCodes * kLanes * sizeof(Element);
      for (int byte = 0; byte < kBytes; byte += 64) __builtin_prefetch(next + byte);
      next += kBytes;
    }
  }
  if (whole < dim) {
    const int num_left = static_cast<int>(dim - whole);
    add(whole, [=](const Element* p) { return Across::template load_some<Read>(p, num_left); });
  }
}

template <class Across, class Read, int kRows>
void measure_few_rows(const float* rows, int64_t dim, const void* codes, int64_t stride,
                      int64_t count, const float* limits, KeepDistances<float> keep, void* search,
                      int64_t first_row, int64_t first_code) {
  using Element = typename Read::Element;
  constexpr int kCodes = kSums / kRows;
  const int64_t row_size = (dim + kFewRowsStep - 1) / kFewRowsStep * kFewRowsStep;
  const auto* first = static_cast<const Element*>(codes);
  alignas(32) float limit[kSums];
  for (int i = 0; i < kSums; ++i) limit[i] = limits[i / kCodes];

  for (int64_t k = 0; k < count; k += kCodes) {
    const Element* e[kCodes] = {first + k * stride};
    for (int c = 1; c < kCodes; ++c) e[c] = e[c - 1] + stride;
    if (count - k < kCodes) {
      for (int c = 1; c < kCodes; ++c) e[c] = k + c < count ? e[c] : e[c - 1];
    }
    // Codes mostly follow each other: so many bytes further is the next group.
    const char* next = reinterpret_cast<const char*>(e[0] + kCodes * stride);
    typename Across::Vector acc[kSums];
    sum_squares<Across, Read, kRows, true>(rows, row_size, dim, e, next, acc);
    alignas(32) float sums[kSums];
    if (!Across::any_not_above(acc, limit, sums)) continue;
    for (int r = 0; r < kRows; ++r) {
      const float shorter = keep(search, first_row + r, first_code + k, kCodes, sums + r * kCodes);
      for (int c = 0; c < kCodes; ++c) limit[r * kCodes + c] = shorter;
    }
  }
}

template <class Across, class Read>
void few_rows(const float* rows, int num_rows, int64_t dim, const void* codes, int64_t stride,
              int64_t count, const float* limits, KeepDistances<float> keep, void* search,
              int64_t first_row, int64_t first_code) {
  const auto measure =
      num_rows == 1 ? measure_few_rows<Across, Read, 1> : measure_few_rows<Across, Read, 2>;
  measure(rows, dim, codes, stride, count, limits, keep, search, first_row, first_code);
}

template <class Across, class Read>
void listed(const float* row, int64_t dim, const void* const* codes, float* distances) {
  static_assert(kSums == kListedCodes, "as many as have sums side by side");
  alignas(32) float limit[kSums];
  alignas(32) float sums[kSums];
  const typename Read::Element* e[kSums];
  for (int i = 0; i < kSums; ++i) {
    limit[i] = __builtin_inff();
    e[i] = static_cast<const typename Read::Element*>(codes[i]);
  }
  typename Across::Vector acc[kSums];
  sum_squares<Across, Read, 1, false>(row, 0, dim, e, nullptr, acc);
  Across::any_not_above(acc, limit, sums);
  for (int i = 0; i < kSums; ++i) distances[i] = sums[i];
}

}  // namespace
}  // namespace vqgan_fast
