// All layers of a pre-LN transformer for some rows: layer_norm, packed_linear and the attentions
// one behind the other, the same bits as those ops.
#pragma once

#include <cstdint>

#include "kernels/cpu/cache_attention.h"
#include "kernels/cpu/packed_linear.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

// One linear layer of each of the layers, stacked.
struct StackedLinear {
  const void* weight = nullptr;  // (layers, panels, dim, kPanel)
  WeightType type = WeightType::kFloat32;
  const float* scales = nullptr;  // (layers, outputs) with int8
  const float* bias = nullptr;    // (layers, outputs)
  int64_t dim = 0;
  int64_t outputs = 0;
};

struct StackedNorm {
  const float* weight = nullptr;  // (layers, width)
  const float* bias = nullptr;
};

struct DecodeLayersArgs {
  int64_t layers = 0;
  int64_t rows = 0;
  int64_t heads = 0;
  int64_t head_dim = 0;
  StackedNorm ln1, ln2;
  StackedLinear qkv, proj, fc, out;
  float eps = 0.0f;
  void* k_cache = nullptr;  // (layers, slots, heads, slot_entries, head_dim)
  void* v_cache = nullptr;
  bool bfloat16 = false;
  int64_t slots_in_cache = 0;
  int64_t slot_entries = 0;
  const int64_t* slots = nullptr;
  float* x = nullptr;  // (rows, width): what goes in, and what comes out
};

// What else a grid has: the rotation of each row's queries and keys, (rows, head_dim / 2).
struct Rotation {
  const float* cos;
  const float* sin;
};

void decode_layers(const DecodeLayersArgs& args, const WindowCells& cells, SimdLevel level,
                   const Parallel& parallel);
void decode_grid_layers(const DecodeLayersArgs& args, const GridCells& cells,
                        const Rotation& rotation, SimdLevel level, const Parallel& parallel);

}  // namespace vqgan_fast
