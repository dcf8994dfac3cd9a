#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "kernels/cuda/decode.cuh"
#include "ops/cuda_launch.h"
#include "ops/decode_layers_args.h"

namespace vqgan_fast::ops {
namespace {

// A tensor of its own with what x holds.
Tensor copy_of(const Tensor& x) {
  Tensor copy = torch::stable::new_empty(x, {x.size(0), x.size(1)});
  torch::stable::copy_(copy, x);
  return copy;
}

Tensor layers_scratch(const Tensor& x, const DecodeLayersArgs& args, int64_t max_entries) {
  return scratch(x, sizeof(float) * cuda::layers_floats(args, max_entries));
}

// A row whose integers are out of range comes out as NaN: raising would have to wait for the GPU.
Tensor decode_layers_cuda(const Tensor& x, std::vector<Tensor> weights, std::vector<Tensor> scales,
                          double eps, const Tensor& k_cache, const Tensor& v_cache,
                          const Tensor& slots, const Tensor& positions, const Tensor& ends) {
  WindowLayers layers(x, weights, scales, eps, k_cache, v_cache, slots, positions, ends);
  Tensor y = copy_of(x);
  if (x.size(0) == 0) return y;
  const CudaContext context(x);
  layers.args.x = floats_of(y);
  const Tensor workspace = layers_scratch(x, layers.args, k_cache.size(3));
  check_cuda(cuda::decode_layers(layers.args, layers.tensors.window(), floats_of(workspace),
                                 context.stream()),
             "decode_layers");
  return y;
}

Tensor decode_grid_layers_cuda(const Tensor& x, std::vector<Tensor> weights,
                               std::vector<Tensor> scales, double eps, const Tensor& k_cache,
                               const Tensor& v_cache, const Tensor& slots, const Tensor& rows,
                               const Tensor& columns, const Tensor& cos, const Tensor& sin,
                               int64_t width, int64_t up, int64_t left, int64_t right) {
  GridLayers layers(x, weights, scales, eps, k_cache, v_cache, slots, rows, columns, cos, sin,
                    width, up, left, right);
  Tensor y = copy_of(x);
  if (x.size(0) == 0) return y;
  const CudaContext context(x);
  layers.args.x = floats_of(y);
  const Tensor workspace = layers_scratch(x, layers.args, cuda::max_entries(layers.cells));
  check_cuda(cuda::decode_grid_layers(layers.args, layers.cells, layers.rotation,
                                      floats_of(workspace), context.stream()),
             "decode_grid_layers");
  return y;
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CUDA, m) {
  m.impl("decode_layers", TORCH_BOX(&vqgan_fast::ops::decode_layers_cuda));
  m.impl("decode_grid_layers", TORCH_BOX(&vqgan_fast::ops::decode_grid_layers_cuda));
}
