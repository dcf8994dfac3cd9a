#include "kernels/cpu/decode_layers.h"

#include <vector>

#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/layer_norm.h"
#include "kernels/decode_layers_steps.h"
#include "kernels/decode_math.h"

namespace vqgan_fast {
namespace {

void attend_cells(const CacheAttentionArgs& args, const WindowCells& cells, SimdLevel level,
                  const Parallel& parallel) {
  window_attention(args, cells, level, parallel);
}
void attend_cells(const CacheAttentionArgs& args, const GridCells& cells, SimdLevel level,
                  const Parallel& parallel) {
  grid_attention(args, cells, level, parallel);
}

template <class Cells>
struct CpuSteps {
  const DecodeLayersArgs& args;
  const Cells& cells;
  const Rotation* rotation;  // or null
  SimdLevel level;
  const Parallel& parallel;

  void norm(const LayerNormArgs& norm) const { layer_norm(norm, level, parallel); }
  void linear(const PackedLinearArgs& linear) const { packed_linear(linear, level, parallel); }
  void attend(const CacheAttentionArgs& attention) const {
    attend_cells(attention, cells, level, parallel);
  }
  void rotate(float* qkv) const {
    if (rotation == nullptr) return;
    const DefaultFloatMode float_mode;
    const int64_t half = args.head_dim / 2, width = args.heads * args.head_dim;
    for (int64_t row = 0; row < args.rows; ++row) {
      const float* cos = rotation->cos + row * half;
      const float* sin = rotation->sin + row * half;
      for (int64_t head = 0; head < 2 * args.heads; ++head) {
        float* first = qkv + row * 3 * width + head * args.head_dim;
        for (int64_t d = 0; d < half; ++d) {
          const float a = first[d], b = first[d + half];
          first[d] = fused(a, cos[d], -(b * sin[d]));
          first[d + half] = fused(b, cos[d], a * sin[d]);
        }
      }
    }
  }
};

template <class Cells>
void layers(const DecodeLayersArgs& args, const Cells& cells, const Rotation* rotation,
            SimdLevel level, const Parallel& parallel) {
  std::vector<float> workspace(decode_layers_floats(args));
  CpuSteps<Cells> steps = {args, cells, rotation, level, parallel};
  run_layers(args, workspace.data(), &steps);
}

}  // namespace

void decode_layers(const DecodeLayersArgs& args, const WindowCells& cells, SimdLevel level,
                   const Parallel& parallel) {
  layers(args, cells, nullptr, level, parallel);
}

void decode_grid_layers(const DecodeLayersArgs& args, const GridCells& cells,
                        const Rotation& rotation, SimdLevel level, const Parallel& parallel) {
  layers(args, cells, &rotation, level, parallel);
}

}  // namespace vqgan_fast
