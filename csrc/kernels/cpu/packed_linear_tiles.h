// Panels in vectors: `V` is a level's vector of floats, a struct of static functions. Each SIMD
// level includes this and is compiled with its own flags.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/packed_linear_stream.h"

namespace vqgan_fast {
namespace {

constexpr int64_t kBlockRows = 48;  // whose inputs and sums stay in the first-level cache

// One segment of kRows rows and two vectors of a panel: totals = chains, or += chains. `x` holds
// kRows values for each input. For each input kShare bytes are fetched, from `ahead` on.
template <class V, int kRows, int kShare>
inline __attribute__((always_inline)) void tile_segment(const float* x, const float* weight,
                                                        int64_t length, bool first,
                                                        const char* ahead, float* totals) {
  typename V::Floats sums[kRows][2];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < 2; ++v) sums[r][v] = V::zero();
  }
  for (int64_t k = 0; k < length; ++k) {
    for (int line = 0; line < kShare; line += 64)
      _mm_prefetch(ahead + k * kShare + line, _MM_HINT_T0);
    const typename V::Floats w[2] = {V::load_unaligned(weight + k * kPanel),
                                     V::load_unaligned(weight + k * kPanel + V::kLanes)};
    for (int r = 0; r < kRows; ++r) {
      const typename V::Floats input = V::broadcast(x + k * kRows + r);
      for (int v = 0; v < 2; ++v) sums[r][v] = V::fma(input, w[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < 2; ++v) {
      float* total = totals + r * kPanel + v * V::kLanes;
      V::store(total, first ? sums[r][v] : V::add(V::load(total), sums[r][v]));
    }
  }
}

// The same for all of a panel and a height that is known when it runs. More rows than one tile has
// make no tile of less than half its height.
template <class V, int kShare, int kRows = V::kTileRows>
void tile_panel_segment(int64_t height, const float* x, const float* weight, int64_t length,
                        bool first, const char* ahead, float* totals) {
  if (height == kRows) {
    for (int j = 0; j < kPanel; j += 2 * V::kLanes) {
      tile_segment<V, kRows, kShare>(x, weight + j, length, first, ahead, totals + j);
      ahead += length * kShare;
    }
  } else if constexpr (2 * kRows > V::kTileRows) {
    tile_panel_segment<V, kShare, kRows - 1>(height, x, weight, length, first, ahead, totals);
  }
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
    V::template load_weights<1>(weight + k * kPanel, 0, w);
    for (int v = 0; v < kVectors; ++v) V::store(buffer + k * kPanel + v * V::kLanes, w[v]);
  }
  return buffer;
}

template <class V, class W>
void tile_panels(const PackedLinearArgs& args, const float* tiled, int64_t panel_begin,
                 int64_t panel_end) {
  constexpr int64_t kBlockTiles = kBlockRows / V::kTileRows;
  // The next segment is fetched while the first tile passes over this one.
  constexpr int kShare = 2 * V::kLanes * sizeof(W);
  alignas(64) float totals[kBlockRows * kPanel];
  alignas(64) float buffer[kSegment * kPanel];
  const RowTiles tiles(args.rows, V::kTileRows);
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    const W* weight = static_cast<const W*>(args.weight) + panel * args.dim * kPanel;
    for (int64_t block = 0; block < tiles.count; block += kBlockTiles) {
      const int64_t block_end =
          block + kBlockTiles < tiles.count ? block + kBlockTiles : tiles.count;
      const int64_t row = tiles.begin(block);
      for (int64_t k = 0; k < args.dim; k += kSegment) {
        const int64_t length = args.dim - k < kSegment ? args.dim - k : kSegment;
        const float* segment = as_floats<V>(weight + k * kPanel, length, buffer);
        const char* ahead = reinterpret_cast<const char*>(weight + (k + kSegment) * kPanel);
        for (int64_t tile = block; tile < block_end; ++tile) {
          const int64_t begin = tiles.begin(tile), height = tiles.height(tile);
          const float* x = tiled + begin * args.dim + k * height;
          float* tile_totals = totals + (begin - row) * kPanel;
          auto* tile_task =
              tile == block ? tile_panel_segment<V, kShare> : tile_panel_segment<V, 0>;
          tile_task(height, x, segment, length, k == 0, ahead, tile_totals);
        }
      }
      for (int64_t r = row; r < tiles.begin(block_end); ++r) {
        finish_panel(args, r, panel * kPanel, totals + (r - row) * kPanel);
      }
    }
  }
}

template <class V, class W>
void any_rows(const PackedLinearArgs& args, const float* tiled, int64_t panel_begin,
              int64_t panel_end) {
  if (tiled == nullptr) {
    stream_rows<V, W>(args, panel_begin, panel_end);
  } else {
    tile_panels<V, W>(args, tiled, panel_begin, panel_end);
  }
}

template <class V>
void any_weights(const PackedLinearArgs& args, const float* tiled, int64_t panel_begin,
                 int64_t panel_end) {
  switch (args.type) {
    case WeightType::kFloat32:
      return any_rows<V, float>(args, tiled, panel_begin, panel_end);
    case WeightType::kBFloat16:
      return any_rows<V, uint16_t>(args, tiled, panel_begin, panel_end);
    case WeightType::kInt8:
      return any_rows<V, int8_t>(args, tiled, panel_begin, panel_end);
  }
}

}  // namespace
}  // namespace vqgan_fast
