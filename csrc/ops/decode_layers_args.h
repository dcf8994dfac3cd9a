// The arguments of decode_layers and decode_grid_layers, as kernels of any device take them.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <vector>

#include "kernels/cpu/decode_layers.h"
#include "ops/cells.h"

namespace vqgan_fast::ops {

// What PackedLayers.tensors() makes (vqgan_fast/ops/packed_layers.py): weights holds weight and
// bias of ln1, qkv, proj, ln2, fc and out, scales those of qkv, proj, fc and out, or nothing.
struct LayerTensors {
  LayerTensors(const Tensor& x, const std::vector<Tensor>& weights,
               const std::vector<Tensor>& scales, const Tensor& k_cache) {
    VQGAN_FAST_CHECK(weights.size() == 12 && (scales.empty() || scales.size() == 4),
                     "weights must be packed by pack_layers, got ", weights.size(), " weights and ",
                     scales.size(), " scales");
    check_floats(x, "x", "(R, C)", x, {kAnySize, kAnySize});
    VQGAN_FAST_CHECK(k_cache.dim() >= 5 && k_cache.size(0) == weights[0].size(0),
                     "k_cache must be (L, S, H, ..., Dh) with L = ", weights[0].size(0),
                     " layers, got ", shape_text(k_cache));
    args.layers = k_cache.size(0);
    args.heads = k_cache.size(2);
    args.head_dim = k_cache.size(k_cache.dim() - 1);
    const int64_t width = args.heads * args.head_dim;
    VQGAN_FAST_CHECK(x.size(1) == width && weights[0].size(1) == width,
                     "x must be (R, C) with C = ", weights[0].size(1),
                     " as the layers have it and H * Dh = ", width, " as the caches have it, got ",
                     shape_text(x));
    VQGAN_FAST_CHECK(args.head_dim >= 8 && args.head_dim % 8 == 0,
                     "k_cache must have heads of a multiple of 8 elements, got ",
                     shape_text(k_cache));
    const int64_t hidden = weights[9].size(weights[9].dim() - 1);
    args.rows = x.size(0);
    const auto scale = [&](size_t i) { return scales.empty() ? nullptr : &scales[i]; };
    args.ln1 = norm(x, weights[0], weights[1], width);
    args.qkv = linear(x, weights[2], weights[3], scale(0), width, 3 * width);
    args.proj = linear(x, weights[4], weights[5], scale(1), width, width);
    args.ln2 = norm(x, weights[6], weights[7], width);
    args.fc = linear(x, weights[8], weights[9], scale(2), width, hidden);
    args.out = linear(x, weights[10], weights[11], scale(3), hidden, width);
  }

  // Caches that were checked; a slot's head has slot_entries.
  void set_caches(const Tensor& k_cache, const Tensor& v_cache, int64_t slot_entries,
                  const CellTensors& cells) {
    args.k_cache = k_cache.data_ptr();
    args.v_cache = v_cache.data_ptr();
    args.bfloat16 = k_cache.scalar_type() == ScalarType::BFloat16;
    args.slots_in_cache = k_cache.size(1);
    args.slot_entries = slot_entries;
    args.slots = integers_of(cells.slots);
  }

  DecodeLayersArgs args;

 private:
  StackedNorm norm(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t width) {
    return {stacked(x, weight, "a LayerNorm's weight", width),
            stacked(x, bias, "a LayerNorm's bias", width)};
  }

  StackedLinear linear(const Tensor& x, const Tensor& weight, const Tensor& bias,
                       const Tensor* scales, int64_t dim, int64_t outputs) {
    check_packed(weight, x, args.layers, dim, outputs);
    VQGAN_FAST_CHECK((scales != nullptr) == (weight.scalar_type() == ScalarType::Char),
                     "scales must come with int8 weights, and with no others");
    StackedLinear linear;
    linear.weight = weight.data_ptr();
    linear.type = weight_type(weight);
    if (scales != nullptr) linear.scales = stacked(x, *scales, "scales", outputs);
    linear.bias = stacked(x, bias, "a bias", outputs);
    linear.dim = dim;
    linear.outputs = outputs;
    return linear;
  }

  const float* stacked(const Tensor& x, const Tensor& t, const char* name, int64_t size) {
    check_floats(t, name, "(L, N)", x, {args.layers, size});
    VQGAN_FAST_CHECK(t.is_contiguous(), name, " must be contiguous");
    return floats_of(t);
  }
};

// The arguments of decode_layers, checked but for the range of integers; x is to be set.
struct WindowLayers : LayerTensors {
  WindowLayers(const Tensor& x, const std::vector<Tensor>& weights,
               const std::vector<Tensor>& scales, double eps, const Tensor& k_cache,
               const Tensor& v_cache, const Tensor& slots, const Tensor& positions,
               const Tensor& ends)
      : LayerTensors(x, weights, scales, k_cache),
        tensors(x, args.rows, slots, positions, "positions", ends, "ends") {
    check_cache(k_cache, v_cache, "(layers, S, H, L, Dh)", x,
                {args.layers, kAnySize, args.heads, kAnySize, args.head_dim});
    set_caches(k_cache, v_cache, k_cache.size(3), tensors);
    args.eps = static_cast<float>(eps);
  }

  CellTensors tensors;
};

// The same of decode_grid_layers.
struct GridLayers : LayerTensors {
  GridLayers(const Tensor& x, const std::vector<Tensor>& weights, const std::vector<Tensor>& scales,
             double eps, const Tensor& k_cache, const Tensor& v_cache, const Tensor& slots,
             const Tensor& rows, const Tensor& columns, const Tensor& cos, const Tensor& sin,
             int64_t width, int64_t up, int64_t left, int64_t right)
      : LayerTensors(x, weights, scales, k_cache),
        tensors(x, args.rows, slots, rows, "rows", columns, "columns") {
    check_cache(k_cache, v_cache, "(layers, S, H, ring_rows, W, Dh)", x,
                {args.layers, kAnySize, args.heads, kAnySize, kAnySize, args.head_dim});
    const int64_t ring_rows = k_cache.size(3), cache_columns = k_cache.size(4);
    check_ring(ring_rows, cache_columns, width, up, left, right);
    check_floats(cos, "cos", "(R, Dh / 2)", x, {args.rows, args.head_dim / 2});
    check_floats(sin, "sin", "(R, Dh / 2)", x, {args.rows, args.head_dim / 2});
    cos_ = torch::stable::contiguous(cos);
    sin_ = torch::stable::contiguous(sin);
    set_caches(k_cache, v_cache, ring_rows * cache_columns, tensors);
    cells = {integers_of(tensors.first),
             integers_of(tensors.second),
             ring_rows,
             cache_columns,
             width,
             up,
             left,
             right};
    rotation = {floats_of(cos_), floats_of(sin_)};
    args.eps = static_cast<float>(eps);
  }

  CellTensors tensors;
  GridCells cells;
  Rotation rotation;

 private:
  Tensor cos_, sin_;
};

}  // namespace vqgan_fast::ops
