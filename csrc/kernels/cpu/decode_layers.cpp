#include "kernels/cpu/decode_layers.h"

#include <vector>

#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/layer_norm.h"
#include "kernels/decode_math.h"

namespace vqgan_fast {
namespace {

PackedLinearArgs linear_of(const StackedLinear& stack, int64_t layer, int64_t rows, const float* x,
                           float* y) {
  const int64_t panels = (stack.outputs + kPanel - 1) / kPanel;
  const int64_t bytes = stack.type == WeightType::kFloat32    ? 4
                        : stack.type == WeightType::kBFloat16 ? 2
                                                              : 1;
  PackedLinearArgs args;
  args.x = x;
  args.rows = rows;
  args.dim = stack.dim;
  args.weight =
      static_cast<const char*>(stack.weight) + layer * panels * stack.dim * kPanel * bytes;
  args.type = stack.type;
  if (stack.scales != nullptr) args.scales = stack.scales + layer * stack.outputs;
  args.bias = stack.bias + layer * stack.outputs;
  args.outputs = stack.outputs;
  args.y = y;
  return args;
}

// The queries and keys of (rows, 3 width).
void rotate(const DecodeLayersArgs& args, const Rotation& rotation, float* qkv) {
  const DefaultFloatMode float_mode;
  const int64_t half = args.head_dim / 2, width = args.heads * args.head_dim;
  for (int64_t row = 0; row < args.rows; ++row) {
    const float* cos = rotation.cos + row * half;
    const float* sin = rotation.sin + row * half;
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

void attend(const CacheAttentionArgs& args, const WindowCells& cells, SimdLevel level,
            const Parallel& parallel) {
  window_attention(args, cells, level, parallel);
}
void attend(const CacheAttentionArgs& args, const GridCells& cells, SimdLevel level,
            const Parallel& parallel) {
  grid_attention(args, cells, level, parallel);
}

template <class Cells>
void layers(const DecodeLayersArgs& args, const Cells& cells, const Rotation* rotation,
            SimdLevel level, const Parallel& parallel) {
  const int64_t width = args.heads * args.head_dim;
  std::vector<float> normed(args.rows * width), attended(args.rows * width),
      qkv(args.rows * 3 * width), hidden(args.rows * args.fc.outputs);
  const auto norm = [&](const StackedNorm& stack, int64_t layer) {
    layer_norm({args.x, args.rows, width, stack.weight + layer * width, stack.bias + layer * width,
                args.eps, normed.data()},
               level, parallel);
  };
  const auto add_to_x = [&](PackedLinearArgs linear) {
    linear.residual = args.x;
    packed_linear(linear, level, parallel);
  };
  const int64_t layer_bytes = args.slots_in_cache * args.heads * args.slot_entries * args.head_dim *
                              (args.bfloat16 ? 2 : 4);
  for (int64_t layer = 0; layer < args.layers; ++layer) {
    norm(args.ln1, layer);
    packed_linear(linear_of(args.qkv, layer, args.rows, normed.data(), qkv.data()), level,
                  parallel);
    if (rotation != nullptr) rotate(args, *rotation, qkv.data());
    CacheAttentionArgs attention;
    attention.q = qkv.data();
    attention.k = qkv.data() + width;
    attention.v = qkv.data() + 2 * width;
    attention.row_stride = 3 * width;
    attention.rows = args.rows;
    attention.heads = args.heads;
    attention.head_dim = args.head_dim;
    attention.k_cache = static_cast<char*>(args.k_cache) + layer * layer_bytes;
    attention.v_cache = static_cast<char*>(args.v_cache) + layer * layer_bytes;
    attention.bfloat16 = args.bfloat16;
    attention.slot_entries = args.slot_entries;
    attention.slots = args.slots;
    attention.out = attended.data();
    attend(attention, cells, level, parallel);
    add_to_x(linear_of(args.proj, layer, args.rows, attended.data(), args.x));
    norm(args.ln2, layer);
    PackedLinearArgs fc = linear_of(args.fc, layer, args.rows, normed.data(), hidden.data());
    fc.gelu = true;
    packed_linear(fc, level, parallel);
    add_to_x(linear_of(args.out, layer, args.rows, hidden.data(), args.x));
  }
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
