// Panels in vectors: `V` is a level's vector of floats, a struct of static functions. Each SIMD
// level includes this and is compiled with its own flags.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/packed_linear_epilogue.h"

namespace vqgan_fast {
namespace {

constexpr int64_t kBlockRows = 48;        // whose sums stay in the first-level cache
constexpr int64_t kPrefetchBytes = 4096;  // how far ahead of a panel that streams by
constexpr int kStreams = 2;               // panels that stream by together

// One segment of kRows rows and kVectors vectors of a panel: totals = chains, or += chains.
template <class V, class W, int kRows, int kVectors>
inline __attribute__((always_inline)) void segment_tile(const float* x, int64_t x_stride,
                                                        const W* weight, int64_t length, bool first,
                                                        float* totals) {
  typename V::Floats sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = V::zero();
  }
  for (int64_t k = 0; k < length; ++k) {
    typename V::Floats w[kVectors];
    V::load_weights(weight + k * kPanel, w);
    for (int r = 0; r < kRows; ++r) {
      const typename V::Floats input = V::broadcast(x + r * x_stride + k);
      for (int v = 0; v < kVectors; ++v) sums[r][v] = V::fma(input, w[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      float* total = totals + r * kPanel + v * V::kLanes;
      V::store(total, first ? sums[r][v] : V::add(V::load(total), sums[r][v]));
    }
  }
}

// One row and kPanels panels, whose weights come from memory: several streams are read faster than
// one, and each is fetched ahead, past a panel's end as well, where another panel lies.
template <class V, class W, int kPanels>
void single_row(const PackedLinearArgs& args, int64_t panel, int64_t row) {
  constexpr int kVectors = kPanel / V::kLanes;
  alignas(64) float totals[kPanels][kPanel];
  const int64_t stride = args.dim * kPanel;
  const W* weight = static_cast<const W*>(args.weight) + panel * stride;
  const float* x = args.x + row * args.dim;
  for (int64_t begin = 0; begin < args.dim; begin += kSegment) {
    const int64_t end = begin + kSegment < args.dim ? begin + kSegment : args.dim;
    typename V::Floats sums[kPanels][kVectors];
    for (int p = 0; p < kPanels; ++p) {
      for (int v = 0; v < kVectors; ++v) sums[p][v] = V::zero();
    }
    for (int64_t k = begin; k < end; ++k) {
      const typename V::Floats input = V::broadcast(x + k);
      for (int p = 0; p < kPanels; ++p) {
        const W* from = weight + p * stride + k * kPanel;
        const char* ahead = reinterpret_cast<const char*>(from) + kPrefetchBytes;
        for (size_t line = 0; line < kPanel * sizeof(W); line += 64) {
          _mm_prefetch(ahead + line, _MM_HINT_T0);
        }
        typename V::Floats w[kVectors];
        V::load_weights(from, w);
        for (int v = 0; v < kVectors; ++v) sums[p][v] = V::fma(input, w[v], sums[p][v]);
      }
    }
    for (int p = 0; p < kPanels; ++p) {
      for (int v = 0; v < kVectors; ++v) {
        float* total = totals[p] + v * V::kLanes;
        V::store(total, begin == 0 ? sums[p][v] : V::add(V::load(total), sums[p][v]));
      }
    }
  }
  for (int p = 0; p < kPanels; ++p) finish_panel(args, row, (panel + p) * kPanel, totals[p]);
}

template <class V, class W>
void single_row_panels(const PackedLinearArgs& args, int64_t panel_begin, int64_t panel_end,
                       int64_t row) {
  int64_t panel = panel_begin;
  for (; panel + kStreams <= panel_end; panel += kStreams) {
    single_row<V, W, kStreams>(args, panel, row);
  }
  for (; panel < panel_end; ++panel) single_row<V, W, 1>(args, panel, row);
}

// Rows that are left over from the large tiles, whose weights lie in the cache.
template <class V, class W>
void segment_few_rows(const float* x, int64_t x_stride, int64_t rows, const W* weight,
                      int64_t length, bool first, float* totals) {
  constexpr int kVectors = kPanel / V::kLanes;
  int64_t r = 0;
  for (; r + V::kFewRows <= rows; r += V::kFewRows) {
    segment_tile<V, W, V::kFewRows, kVectors>(x + r * x_stride, x_stride, weight, length, first,
                                              totals + r * kPanel);
  }
  for (; r + 2 <= rows; r += 2) {
    segment_tile<V, W, 2, kVectors>(x + r * x_stride, x_stride, weight, length, first,
                                    totals + r * kPanel);
  }
  if (r < rows) {
    segment_tile<V, W, 1, kVectors>(x + r * x_stride, x_stride, weight, length, first,
                                    totals + r * kPanel);
  }
}

// Many rows pass over the segment in floats.
template <class V>
void segment_rows(const float* x, int64_t x_stride, int64_t rows, const float* weight,
                  int64_t length, bool first, float* totals) {
  int64_t r = 0;
  for (; r + V::kTileRows <= rows; r += V::kTileRows) {
    for (int j = 0; j < kPanel; j += 2 * V::kLanes) {
      segment_tile<V, float, V::kTileRows, 2>(x + r * x_stride, x_stride, weight + j, length, first,
                                              totals + r * kPanel + j);
    }
  }
  segment_few_rows<V, float>(x + r * x_stride, x_stride, rows - r, weight, length, first,
                             totals + r * kPanel);
}

// Weights as floats: those of a panel that is in floats already where they lie.
template <class V>
const float* as_floats(const float* weight, int64_t, float*) {
  return weight;
}
template <class V, class W>
const float* as_floats(const W* weight, int64_t length, float* buffer) {
  constexpr int kVectors = kPanel / V::kLanes;
  for (int64_t k = 0; k < length; ++k) {
    typename V::Floats w[kVectors];
    V::load_weights(weight + k * kPanel, w);
    for (int v = 0; v < kVectors; ++v) V::store(buffer + k * kPanel + v * V::kLanes, w[v]);
  }
  return buffer;
}

template <class V, class W>
void tile_panels(const PackedLinearArgs& args, int64_t panel_begin, int64_t panel_end,
                 int64_t row_begin, int64_t row_end) {
  if (row_end - row_begin == 1) {
    return single_row_panels<V, W>(args, panel_begin, panel_end, row_begin);
  }
  alignas(64) float totals[kBlockRows * kPanel];
  alignas(64) float buffer[kSegment * kPanel];
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    const W* weight = static_cast<const W*>(args.weight) + panel * args.dim * kPanel;
    for (int64_t row = row_begin; row < row_end; row += kBlockRows) {
      const int64_t rows = row_end - row < kBlockRows ? row_end - row : kBlockRows;
      for (int64_t k = 0; k < args.dim; k += kSegment) {
        const int64_t length = args.dim - k < kSegment ? args.dim - k : kSegment;
        const float* x = args.x + row * args.dim + k;
        const W* segment = weight + k * kPanel;
        if (rows <= V::kFewRows) {
          segment_few_rows<V>(x, args.dim, rows, segment, length, k == 0, totals);
        } else {
          segment_rows<V>(x, args.dim, rows, as_floats<V>(segment, length, buffer), length, k == 0,
                          totals);
        }
      }
      for (int64_t r = 0; r < rows; ++r) {
        finish_panel(args, row + r, panel * kPanel, totals + r * kPanel);
      }
    }
  }
}

template <class V>
void tile_any_panels(const PackedLinearArgs& args, int64_t panel_begin, int64_t panel_end,
                     int64_t row_begin, int64_t row_end) {
  switch (args.type) {
    case WeightType::kFloat32:
      return tile_panels<V, float>(args, panel_begin, panel_end, row_begin, row_end);
    case WeightType::kBFloat16:
      return tile_panels<V, uint16_t>(args, panel_begin, panel_end, row_begin, row_end);
    case WeightType::kInt8:
      return tile_panels<V, int8_t>(args, panel_begin, panel_end, row_begin, row_end);
  }
}

}  // namespace
}  // namespace vqgan_fast
