// The steps of decode_layers in their order, for the kernels of any device.
#pragma once

#include <cstdint>

#include "kernels/cpu/decode_layers.h"
#include "kernels/cpu/layer_norm.h"

namespace vqgan_fast {

// How many floats of memory the steps hand to one another.
inline int64_t decode_layers_floats(const DecodeLayersArgs& args) {
  return args.rows * (5 * args.heads * args.head_dim + args.fc.outputs);
}

inline PackedLinearArgs linear_of(const StackedLinear& stack, int64_t layer, int64_t rows,
                                  const float* x, float* y) {
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

// Steps has norm(LayerNormArgs), linear(PackedLinearArgs), rotate(qkv), which rotates the queries
// and keys of (rows, 3 width) or leaves them, and attend(CacheAttentionArgs). `workspace` has
// decode_layers_floats of room.
template <class Steps>
void run_layers(const DecodeLayersArgs& args, float* workspace, Steps* steps) {
  const int64_t width = args.heads * args.head_dim;
  float* normed = workspace;
  float* attended = normed + args.rows * width;
  float* qkv = attended + args.rows * width;
  float* hidden = qkv + args.rows * 3 * width;
  const auto norm = [&](const StackedNorm& stack, int64_t layer) {
    steps->norm({args.x, args.rows, width, stack.weight + layer * width, stack.bias + layer * width,
                 args.eps, normed});
  };
  const auto add_to_x = [&](PackedLinearArgs linear) {
    linear.residual = args.x;
    steps->linear(linear);
  };
  const int64_t layer_bytes = args.slots_in_cache * args.heads * args.slot_entries * args.head_dim *
                              (args.bfloat16 ? 2 : 4);
  for (int64_t layer = 0; layer < args.layers; ++layer) {
    norm(args.ln1, layer);
    steps->linear(linear_of(args.qkv, layer, args.rows, normed, qkv));
    steps->rotate(qkv);
    CacheAttentionArgs attention;
    attention.q = qkv;
    attention.k = qkv + width;
    attention.v = qkv + 2 * width;
    attention.row_stride = 3 * width;
    attention.rows = args.rows;
    attention.heads = args.heads;
    attention.head_dim = args.head_dim;
    attention.k_cache = static_cast<char*>(args.k_cache) + layer * layer_bytes;
    attention.v_cache = static_cast<char*>(args.v_cache) + layer * layer_bytes;
    attention.bfloat16 = args.bfloat16;
    attention.slot_entries = args.slot_entries;
    attention.slots = args.slots;
    attention.out = attended;
    steps->attend(attention);
    add_to_x(linear_of(args.proj, layer, args.rows, attended, args.x));
    norm(args.ln2, layer);
    PackedLinearArgs fc = linear_of(args.fc, layer, args.rows, normed, hidden);
    fc.gelu = true;
    steps->linear(fc);
    add_to_x(linear_of(args.out, layer, args.rows, hidden, args.x));
  }
}

}  // namespace vqgan_fast
