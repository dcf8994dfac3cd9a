// The definition, as plain loops.
#include "kernels/cpu/packed_linear_epilogue.h"

namespace vqgan_fast {
namespace {

void load_weights(const float* panel, float* w) {
  for (int j = 0; j < kPanel; ++j) w[j] = panel[j];
}

void load_weights(const uint16_t* panel, float* w) {
  for (int j = 0; j < kPanel / 2; ++j) {
    w[j] = float_from_bits(static_cast<uint32_t>(panel[2 * j]) << 16);
    w[j + kPanel / 2] = float_from_bits(static_cast<uint32_t>(panel[2 * j + 1]) << 16);
  }
}

void load_weights(const int8_t* panel, float* w) {
  for (int j = 0; j < kPanel; ++j) w[j] = panel[j];
}

template <class W>
void panels(const PackedLinearArgs& args, int64_t panel_begin, int64_t panel_end) {
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    const W* weight = static_cast<const W*>(args.weight) + panel * args.dim * kPanel;
    for (int64_t row = 0; row < args.rows; ++row) {
      float totals[kPanel];
      for (int64_t begin = 0; begin < args.dim; begin += kSegment) {
        const int64_t end = begin + kSegment < args.dim ? begin + kSegment : args.dim;
        float chains[kPanel] = {};
        for (int64_t k = begin; k < end; ++k) {
          float w[kPanel];
          load_weights(weight + k * kPanel, w);
          const float x = args.x[row * args.dim + k];
          for (int j = 0; j < kPanel; ++j) chains[j] = fused(x, w[j], chains[j]);
        }
        for (int j = 0; j < kPanel; ++j) totals[j] = begin == 0 ? chains[j] : totals[j] + chains[j];
      }
      finish_panel(args, row, panel * kPanel, totals);
    }
  }
}

}  // namespace

void packed_linear_baseline(const PackedLinearArgs& args, const float*, int64_t panel_begin,
                            int64_t panel_end) {
  switch (args.type) {
    case WeightType::kFloat32:
      return panels<float>(args, panel_begin, panel_end);
    case WeightType::kBFloat16:
      return panels<uint16_t>(args, panel_begin, panel_end);
    case WeightType::kInt8:
      return panels<int8_t>(args, panel_begin, panel_end);
  }
}

}  // namespace vqgan_fast
