// What the ops of a decode step ask of their arguments, on any device.
// vqgan_fast/ops/decode_checks.py says the same in Python.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

#include "kernels/cpu/packed_linear.h"
#include "ops/checks.h"

namespace vqgan_fast::ops {

constexpr int64_t kAnySize = -1;

inline bool has_sizes(const Tensor& t, std::initializer_list<int64_t> sizes) {
  if (t.dim() != static_cast<int64_t>(sizes.size())) return false;
  int64_t i = 0;
  for (const int64_t size : sizes) {
    if (size != kAnySize && t.size(i) != size) return false;
    ++i;
  }
  return true;
}

// A float32 tensor of these sizes on the device of x.
inline void check_floats(const Tensor& t, const char* name, const char* shape, const Tensor& x,
                         std::initializer_list<int64_t> sizes) {
  VQGAN_FAST_CHECK(t.defined(), name, " must be a tensor, got None");
  VQGAN_FAST_CHECK(t.scalar_type() == ScalarType::Float && has_sizes(t, sizes), name, " must be ",
                   shape, " float32", ", got ", shape_text(t), " of ", t.scalar_type());
  VQGAN_FAST_CHECK(t.device() == x.device(), name, " must be on ", device_text(x),
                   " like the first argument, got ", device_text(t));
  check_memory(t, name);
}

inline void check_integers(const Tensor& t, const char* name, const Tensor& x, int64_t rows) {
  VQGAN_FAST_CHECK(t.defined(), name, " must be a tensor, got None");
  VQGAN_FAST_CHECK(t.scalar_type() == ScalarType::Long && has_sizes(t, {rows}), name,
                   " must be int64, one for each of the ", rows, " rows, got ", shape_text(t),
                   " of ", t.scalar_type());
  VQGAN_FAST_CHECK(t.device() == x.device(), name, " must be on ", device_text(x),
                   " like the first argument, got ", device_text(t));
  check_memory(t, name);
}

inline WeightType weight_type(const Tensor& weight) {
  switch (weight.scalar_type()) {
    case ScalarType::BFloat16:
      return WeightType::kBFloat16;
    case ScalarType::Char:
      return WeightType::kInt8;
    default:
      return WeightType::kFloat32;
  }
}

// weight (panels, dim, 32) or, where it is stacked, (layers, panels, dim, 32), for `outputs`.
inline void check_packed(const Tensor& weight, const Tensor& x, int64_t layers, int64_t dim,
                         int64_t outputs) {
  const int64_t panels = (outputs + kPanel - 1) / kPanel;
  const ScalarType type = weight.scalar_type();
  const bool fits = layers == 0 ? has_sizes(weight, {panels, dim, kPanel})
                                : has_sizes(weight, {layers, panels, dim, kPanel});
  VQGAN_FAST_CHECK(
      outputs >= 1 && fits && weight.is_contiguous() &&
          (type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Char),
      "weight must be packed by pack_linear for K = ", dim, " and N = ", outputs, ", (", panels,
      ", ", dim, ", ", kPanel, ") contiguous of float32, bfloat16 or int8, got ",
      shape_text(weight), " of ", type);
  VQGAN_FAST_CHECK(weight.device() == x.device(), "weight must be on ", device_text(x),
                   " like x, got ", device_text(weight));
  check_memory(weight, "weight");
}

inline void check_packed_linear(const Tensor& x, const Tensor& weight,
                                const std::optional<Tensor>& scales,
                                const std::optional<Tensor>& bias, int64_t outputs) {
  check_floats(x, "x", "(R, K)", x, {kAnySize, kAnySize});
  check_packed(weight, x, 0, x.size(1), outputs);
  VQGAN_FAST_CHECK(scales.has_value() == (weight.scalar_type() == ScalarType::Char),
                   "scales must come with int8 weights, and with no others");
  if (scales.has_value()) check_floats(*scales, "scales", "(N,)", x, {outputs});
  if (bias.has_value()) check_floats(*bias, "bias", "(N,)", x, {outputs});
}

inline void check_layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias,
                             double eps) {
  check_floats(x, "x", "(R, C)", x, {kAnySize, kAnySize});
  VQGAN_FAST_CHECK(x.size(1) >= 1, "x must be (R, C) with C >= 1, got ", shape_text(x));
  check_floats(weight, "weight", "(C,)", x, {x.size(1)});
  check_floats(bias, "bias", "(C,)", x, {x.size(1)});
  VQGAN_FAST_CHECK(eps >= 0, "eps must be >= 0, got ", eps);
}

// q, k and v (R, H, Dh).
inline void check_heads(const Tensor& q, const Tensor& k, const Tensor& v) {
  check_floats(q, "q", "(R, H, Dh)", q, {kAnySize, kAnySize, kAnySize});
  VQGAN_FAST_CHECK(q.size(1) >= 1 && q.size(2) >= 8 && q.size(2) % 8 == 0,
                   "q must be (R, H, Dh) with Dh a multiple of 8, got ", shape_text(q));
  check_floats(k, "k", "of the shape of q,", q, {q.size(0), q.size(1), q.size(2)});
  check_floats(v, "v", "of the shape of q,", q, {q.size(0), q.size(1), q.size(2)});
}

// The caches of one layer, or of all with `sizes` that begin with the number of layers.
inline void check_cache(const Tensor& k_cache, const Tensor& v_cache, const char* shape,
                        const Tensor& x, std::initializer_list<int64_t> sizes) {
  for (const Tensor* cache : {&k_cache, &v_cache}) {
    const char* name = cache == &k_cache ? "k_cache" : "v_cache";
    const ScalarType type = cache->scalar_type();
    VQGAN_FAST_CHECK((type == ScalarType::Float || type == ScalarType::BFloat16) &&
                         has_sizes(*cache, sizes) && cache->is_contiguous(),
                     name, " must be contiguous ", shape, ", float32 or bfloat16, got ",
                     shape_text(*cache), " of ", type);
    VQGAN_FAST_CHECK(cache->device() == x.device(), name, " must be on ", device_text(x),
                     " like the first argument, got ", device_text(*cache));
    check_memory(*cache, name);
  }
  bool same = v_cache.scalar_type() == k_cache.scalar_type();
  for (int64_t i = 0; same && i < k_cache.dim(); ++i) same = k_cache.size(i) == v_cache.size(i);
  VQGAN_FAST_CHECK(same, "v_cache must be like k_cache, ", shape_text(k_cache), " of ",
                   k_cache.scalar_type(), ", got ", shape_text(v_cache), " of ",
                   v_cache.scalar_type());
}

inline void check_ring(int64_t ring_rows, int64_t columns, int64_t width, int64_t up, int64_t left,
                       int64_t right) {
  VQGAN_FAST_CHECK(up >= 0 && left >= 0 && right >= 0, "up, left and right must be >= 0, got ", up,
                   ", ", left, " and ", right);
  VQGAN_FAST_CHECK(ring_rows > up, "k_cache must have more than up = ", up,
                   " ring rows for each head, got ", ring_rows);
  VQGAN_FAST_CHECK(width >= 1 && width <= columns, "width must lie in [1, ", columns,
                   "], the cache's columns, got ", width);
}

// Whose probabilities, multiples of 2^-40, have a sum in int64.
constexpr int64_t kMostCodes = int64_t{1} << 22;

inline void check_logits(const Tensor& logits, const Tensor& seeds, const Tensor& cells,
                         const std::optional<Tensor>& uncond_logits, int64_t top_k) {
  check_floats(logits, "logits", "(B, V)", logits, {kAnySize, kAnySize});
  VQGAN_FAST_CHECK(logits.size(1) >= 1, "logits must be (B, V) with V >= 1, got ",
                   shape_text(logits));
  VQGAN_FAST_CHECK(logits.size(1) <= kMostCodes, "logits must be (B, V) with V at most ",
                   kMostCodes, ", got ", shape_text(logits));
  check_integers(seeds, "seeds", logits, logits.size(0));
  check_integers(cells, "cells", logits, logits.size(0));
  if (uncond_logits.has_value()) {
    check_floats(*uncond_logits, "uncond_logits", "like logits,", logits,
                 {logits.size(0), logits.size(1)});
  }
  VQGAN_FAST_CHECK(top_k <= logits.size(1), "top_k must be at most the ", logits.size(1),
                   " codes, got ", top_k);
}

// The memory of a float32 tensor that is contiguous.
inline float* floats_of(const Tensor& t) { return static_cast<float*>(t.data_ptr()); }
inline const int64_t* integers_of(const Tensor& t) {
  return static_cast<const int64_t*>(t.data_ptr());
}

}  // namespace vqgan_fast::ops
