#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "kernels/cpu/decode_layers.h"
#include "ops/decode_layers_args.h"
#include "ops/parallel_cpu.h"
#include "ops/tensor_rows.h"

namespace vqgan_fast::ops {
namespace {

// A tensor of its own with what x holds.
Tensor copy_of(const Tensor& x) {
  const Tensor rows = torch::stable::contiguous(x);
  Tensor copy = empty_on_cpu({x.size(0), x.size(1)}, ScalarType::Float);
  std::copy_n(floats_of(rows), x.numel(), floats_of(copy));
  return copy;
}

Tensor decode_layers_cpu(const Tensor& x, std::vector<Tensor> weights, std::vector<Tensor> scales,
                         double eps, const Tensor& k_cache, const Tensor& v_cache,
                         const Tensor& slots, const Tensor& positions, const Tensor& ends) {
  LayerTensors layers(x, weights, scales, k_cache);
  DecodeLayersArgs& args = layers.args;
  check_cache(k_cache, v_cache, "(layers, S, H, L, Dh)", x,
              {args.layers, kAnySize, args.heads, kAnySize, args.head_dim});
  const CellTensors cells(x, args.rows, slots, positions, "positions", ends, "ends");
  check_window_range(cells, args.rows, k_cache.size(1), k_cache.size(3));
  layers.set_caches(k_cache, v_cache, k_cache.size(3), cells);
  Tensor y = copy_of(x);
  args.eps = static_cast<float>(eps);
  args.x = floats_of(y);
  decode_layers(args, cells.window(), simd_level(), torch_parallel());
  return y;
}

Tensor decode_grid_layers_cpu(const Tensor& x, std::vector<Tensor> weights,
                              std::vector<Tensor> scales, double eps, const Tensor& k_cache,
                              const Tensor& v_cache, const Tensor& slots, const Tensor& rows,
                              const Tensor& columns, const Tensor& cos, const Tensor& sin,
                              int64_t width, int64_t up, int64_t left, int64_t right) {
  LayerTensors layers(x, weights, scales, k_cache);
  DecodeLayersArgs& args = layers.args;
  check_cache(k_cache, v_cache, "(layers, S, H, ring_rows, W, Dh)", x,
              {args.layers, kAnySize, args.heads, kAnySize, kAnySize, args.head_dim});
  const int64_t ring_rows = k_cache.size(3), cache_columns = k_cache.size(4);
  check_ring(ring_rows, cache_columns, width, up, left, right);
  check_floats(cos, "cos", "(R, Dh / 2)", x, {args.rows, args.head_dim / 2});
  check_floats(sin, "sin", "(R, Dh / 2)", x, {args.rows, args.head_dim / 2});
  const CellTensors cells(x, args.rows, slots, rows, "rows", columns, "columns");
  check_grid_range(cells, args.rows, k_cache.size(1), width);
  layers.set_caches(k_cache, v_cache, ring_rows * cache_columns, cells);
  const Tensor cosines = torch::stable::contiguous(cos), sines = torch::stable::contiguous(sin);
  Tensor y = copy_of(x);
  args.eps = static_cast<float>(eps);
  args.x = floats_of(y);
  decode_grid_layers(args,
                     {integers_of(cells.first), integers_of(cells.second), ring_rows, cache_columns,
                      width, up, left, right},
                     {floats_of(cosines), floats_of(sines)}, simd_level(), torch_parallel());
  return y;
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CPU, m) {
  m.impl("decode_layers", TORCH_BOX(&vqgan_fast::ops::decode_layers_cpu));
  m.impl("decode_grid_layers", TORCH_BOX(&vqgan_fast::ops::decode_grid_layers_cpu));
}
