// Few rows, at most a tile: reading the weights takes the time, so that they pass by once and are
// fetched ahead. `V` as in packed_linear_tiles.h, which includes this.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/packed_linear_epilogue.h"

namespace vqgan_fast {
namespace {

// kRows rows and kPanels panels: several streams are read faster than one. Sums that are too many
// for the registers are taken in kParts passes over each segment. Each pass fetches its share of
// what lies a segment ahead, past a panel's end as well, where another panel lies.
template <class V, class W, int kRows, int kPanels, int kParts>
void stream_panels(const PackedLinearArgs& args, int64_t panel) {
  using Floats = typename V::Floats;
  constexpr int kVectors = kPanel / V::kLanes / kParts;
  constexpr int64_t kShare = kPanel * sizeof(W) / kParts;  // bytes to fetch for each input
  constexpr int64_t kAhead =
      kSegment * kPanel * sizeof(W) > 4096 ? kSegment * kPanel * sizeof(W) : 4096;
  // AVX-512 reads so fast that L1 cannot wait for as many lines as that takes. The L2 can.
  constexpr auto kHint = V::kLanes == 16 ? _MM_HINT_T1 : _MM_HINT_T0;
  alignas(64) float totals[kPanels][kRows][kPanel];
  const int64_t stride = args.dim * kPanel;
  const W* weight = static_cast<const W*>(args.weight) + panel * stride;
  for (int64_t begin = 0; begin < args.dim; begin += kSegment) {
    const int64_t length = args.dim - begin < kSegment ? args.dim - begin : kSegment;
    for (int part = 0; part < kParts; ++part) {
      Floats sums[kPanels][kRows][kVectors];
      for (int p = 0; p < kPanels; ++p) {
        for (int r = 0; r < kRows; ++r) {
          for (int v = 0; v < kVectors; ++v) sums[p][r][v] = V::zero();
        }
      }
      for (int64_t k = 0; k < length; ++k) {
        for (int p = 0; p < kPanels; ++p) {
          const W* segment = weight + p * stride + begin * kPanel;
          const char* ahead = reinterpret_cast<const char*>(segment) + kAhead;
          for (int64_t line = 0; line < kShare; line += 64) {
            _mm_prefetch(ahead + (part * length + k) * kShare + line, kHint);
          }
          Floats w[kVectors];
          V::template load_weights<kParts>(segment + k * kPanel, part, w);
          for (int r = 0; r < kRows; ++r) {
            const Floats input = V::broadcast(args.x + r * args.dim + begin + k);
            for (int v = 0; v < kVectors; ++v) sums[p][r][v] = V::fma(input, w[v], sums[p][r][v]);
          }
        }
      }
      for (int p = 0; p < kPanels; ++p) {
        for (int r = 0; r < kRows; ++r) {
          for (int v = 0; v < kVectors; ++v) {
            float* total = totals[p][r] + (v * kParts + part) * V::kLanes;
            const Floats sum = sums[p][r][v];
            V::store(total, begin == 0 ? sum : V::add(V::load(total), sum));
          }
        }
      }
    }
  }
  for (int p = 0; p < kPanels; ++p) {
    for (int r = 0; r < kRows; ++r) finish_panel(args, r, (panel + p) * kPanel, totals[p][r]);
  }
}

template <class V, class W, int kRows = 1>
void stream_rows(const PackedLinearArgs& args, int64_t panel_begin, int64_t panel_end) {
  if constexpr (kRows <= V::kTileRows) {
    if (args.rows != kRows) return stream_rows<V, W, kRows + 1>(args, panel_begin, panel_end);
    constexpr int kPanels = V::stream_panels(kRows, sizeof(W));
    constexpr int kParts = V::stream_parts(kRows, sizeof(W));
    int64_t panel = panel_begin;
    for (; panel + kPanels <= panel_end; panel += kPanels) {
      stream_panels<V, W, kRows, kPanels, kParts>(args, panel);
    }
    for (; panel < panel_end; ++panel) stream_panels<V, W, kRows, 1, kParts>(args, panel);
  }
}

}  // namespace
}  // namespace vqgan_fast
