// The ops of a decode step.
#include "entry.h"
#include "kernels/cuda/decode.cuh"

namespace {

namespace cuda = vqgan_fast::cuda;

// weights and scales as vqgan_fast/ops/packed_layers.py orders them; scales is null but with int8.
vqgan_fast::DecodeLayersArgs layers_args(float* x, int64_t layers, int64_t rows, int64_t heads,
                                         int64_t dim, int64_t hidden, const float* const* weights,
                                         const float* const* scales, int64_t type, double eps,
                                         void* k_cache, void* v_cache, int64_t num_slots,
                                         int64_t slot_entries, const int64_t* slots) {
  const int64_t width = heads * dim;
  const auto linear = [&](int i, int scale, int64_t inputs, int64_t outputs) {
    return vqgan_fast::StackedLinear{weights[i],
                                     static_cast<vqgan_fast::WeightType>(type),
                                     scales == nullptr ? nullptr : scales[scale],
                                     weights[i + 1],
                                     inputs,
                                     outputs};
  };
  vqgan_fast::DecodeLayersArgs args;
  args.layers = layers;
  args.rows = rows;
  args.heads = heads;
  args.head_dim = dim;
  args.ln1 = {weights[0], weights[1]};
  args.qkv = linear(2, 0, width, 3 * width);
  args.proj = linear(4, 1, width, width);
  args.ln2 = {weights[6], weights[7]};
  args.fc = linear(8, 2, width, hidden);
  args.out = linear(10, 3, hidden, width);
  args.eps = static_cast<float>(eps);
  args.k_cache = k_cache;
  args.v_cache = v_cache;
  args.slots_in_cache = num_slots;
  args.slot_entries = slot_entries;
  args.slots = slots;
  args.x = x;
  return args;
}

}  // namespace

extern "C" {

int packed_linear(const float* x, int64_t rows, int64_t dim, const void* weight, int64_t type,
                  const float* scales, const float* bias, int64_t outputs, int64_t gelu,
                  const float* residual, float* y) {
  return cuda::packed_linear({x, rows, dim, weight, static_cast<vqgan_fast::WeightType>(type),
                              scales, bias, outputs, gelu != 0, residual, y},
                             nullptr);
}

int layer_norm(const float* x, int64_t rows, int64_t dim, const float* weight, const float* bias,
               double eps, float* y) {
  return cuda::layer_norm({x, rows, dim, weight, bias, static_cast<float>(eps), y}, nullptr);
}

int window_attention(const float* q, const float* k, const float* v, int64_t rows, int64_t heads,
                     int64_t dim, void* k_cache, void* v_cache, int64_t bfloat16, int64_t slots,
                     int64_t length, const int64_t* slot, const int64_t* positions,
                     const int64_t* ends, float* y) {
  Workspace workspace(4 * cuda::attention_floats(rows, heads, dim, length));
  return cuda::window_attention(
      {q, k, v, heads * dim, rows, heads, dim, k_cache, v_cache, bfloat16 != 0, length, slot, y},
      {positions, ends}, slots, static_cast<float*>(workspace.data()), nullptr);
}

int grid_attention(const float* q, const float* k, const float* v, int64_t rows, int64_t heads,
                   int64_t dim, void* k_cache, void* v_cache, int64_t slots, int64_t ring_rows,
                   int64_t columns, const int64_t* slot, const int64_t* i, const int64_t* j,
                   int64_t width, int64_t up, int64_t left, int64_t right, float* y) {
  const vqgan_fast::GridCells cells = {i, j, ring_rows, columns, width, up, left, right};
  Workspace workspace(4 * cuda::attention_floats(rows, heads, dim, cuda::max_entries(cells)));
  return cuda::grid_attention({q, k, v, heads * dim, rows, heads, dim, k_cache, v_cache, false,
                               ring_rows * columns, slot, y},
                              cells, slots, static_cast<float*>(workspace.data()), nullptr);
}

int decode_layers(float* x, int64_t layers, int64_t rows, int64_t heads, int64_t dim,
                  int64_t hidden, const float* const* weights, const float* const* scales,
                  int64_t type, double eps, float* k_cache, float* v_cache, int64_t num_slots,
                  int64_t length, const int64_t* slots, const int64_t* positions,
                  const int64_t* ends) {
  const auto args = layers_args(x, layers, rows, heads, dim, hidden, weights, scales, type, eps,
                                k_cache, v_cache, num_slots, length, slots);
  Workspace workspace(4 * cuda::layers_floats(args, length));
  return cuda::decode_layers(args, {positions, ends}, static_cast<float*>(workspace.data()),
                             nullptr);
}

int decode_grid_layers(float* x, int64_t layers, int64_t rows, int64_t heads, int64_t dim,
                       int64_t hidden, const float* const* weights, const float* const* scales,
                       int64_t type, double eps, float* k_cache, float* v_cache, int64_t num_slots,
                       int64_t ring_rows, int64_t columns, const int64_t* slots, const int64_t* i,
                       const int64_t* j, const float* cos, const float* sin, int64_t width,
                       int64_t up, int64_t left, int64_t right) {
  const auto args = layers_args(x, layers, rows, heads, dim, hidden, weights, scales, type, eps,
                                k_cache, v_cache, num_slots, ring_rows * columns, slots);
  const vqgan_fast::GridCells cells = {i, j, ring_rows, columns, width, up, left, right};
  Workspace workspace(4 * cuda::layers_floats(args, cuda::max_entries(cells)));
  return cuda::decode_grid_layers(args, cells, {cos, sin}, static_cast<float*>(workspace.data()),
                                  nullptr);
}

int sample_logits(const float* logits, const float* uncond, int64_t rows, int64_t codes,
                  const int64_t* seeds, const int64_t* cells, double guidance, double temperature,
                  int64_t top_k, double top_p, double log_min_p, int64_t* drawn, float* logprobs) {
  Workspace workspace(sizeof(double) * rows * codes);
  return cuda::sample_logits({logits,
                              codes,
                              uncond,
                              codes,
                              rows,
                              codes,
                              seeds,
                              cells,
                              {guidance, temperature, top_k, top_p, log_min_p},
                              drawn,
                              logprobs},
                             static_cast<double*>(workspace.data()), nullptr);
}

}  // extern "C"
