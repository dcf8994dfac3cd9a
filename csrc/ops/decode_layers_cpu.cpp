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
  WindowLayers layers(x, weights, scales, eps, k_cache, v_cache, slots, positions, ends);
  check_window_range(layers.tensors, layers.args.rows, k_cache.size(1), k_cache.size(3));
  Tensor y = copy_of(x);
  layers.args.x = floats_of(y);
  decode_layers(layers.args, layers.tensors.window(), simd_level(), torch_parallel());
  return y;
}

Tensor decode_grid_layers_cpu(const Tensor& x, std::vector<Tensor> weights,
                              std::vector<Tensor> scales, double eps, const Tensor& k_cache,
                              const Tensor& v_cache, const Tensor& slots, const Tensor& rows,
                              const Tensor& columns, const Tensor& cos, const Tensor& sin,
                              int64_t width, int64_t up, int64_t left, int64_t right) {
  GridLayers layers(x, weights, scales, eps, k_cache, v_cache, slots, rows, columns, cos, sin,
                    width, up, left, right);
  check_grid_range(layers.tensors, layers.args.rows, k_cache.size(1), width);
  Tensor y = copy_of(x);
  layers.args.x = floats_of(y);
  decode_grid_layers(layers.args, layers.cells, layers.rotation, simd_level(), torch_parallel());
  return y;
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CPU, m) {
  m.impl("decode_layers", TORCH_BOX(&vqgan_fast::ops::decode_layers_cpu));
  m.impl("decode_grid_layers", TORCH_BOX(&vqgan_fast::ops::decode_grid_layers_cpu));
}
