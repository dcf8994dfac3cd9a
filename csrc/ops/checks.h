// What every implementation of an op asks of its arguments, on any device. Each error names the
// argument, what was expected, and what came. vqgan_fast/ops/checks.py says the same in Python for
// fake kernels and for devices without a kernel.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/HeaderOnlyArrayRef.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>

#include "ops/check.h"

namespace vqgan_fast::ops {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// (2, 3, 4)
inline std::string shape_text(const Tensor& t) {
  std::string text = "(";
  for (int64_t i = 0; i < t.dim(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(t.size(i));
  }
  return text + (t.dim() == 1 ? ",)" : ")");
}

// The shape of one number for each row of z: valid while z is.
inline IntHeaderOnlyArrayRef index_shape(const Tensor& z) {
  return z.sizes().slice(0, static_cast<size_t>(z.dim() - 1));
}

// cuda:1
inline std::string device_text(const Tensor& t) {
  if (t.is_cpu()) return "cpu";
  return (t.is_cuda() ? "cuda:" : "device ") + std::to_string(t.get_device_index());
}

inline bool is_float(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
         type == ScalarType::BFloat16;
}

// Sharded training frees parameters that are not in use.
inline void check_memory(const Tensor& t, const char* name) {
  VQGAN_FAST_CHECK(t.numel() == 0 || t.data_ptr() != nullptr, name,
                   " must be in memory, got a tensor ", shape_text(t), " whose storage was freed");
}

inline void check_float(const Tensor& t, const char* name) {
  VQGAN_FAST_CHECK(t.defined(), name, " must be a tensor, got None");
  VQGAN_FAST_CHECK(is_float(t.scalar_type()), name,
                   " must be float16, bfloat16, float32 or float64, got ", t.scalar_type());
  check_memory(t, name);
}

inline void check_same_device(const Tensor& t, const char* name, const Tensor& z) {
  VQGAN_FAST_CHECK(t.device() == z.device(), name, " must be on ", device_text(z), " like z, got ",
                   device_text(t));
}

// The sizes of z (..., num_rows, dim) against codebook (..., num_codes, dim). With one codebook,
// num_heads is 1 and num_rows counts all rows of z; else each of the num_heads leading entries has
// its own.
struct SearchSizes {
  int64_t num_heads;
  int64_t num_rows;
  int64_t num_codes;
  int64_t dim;
};

inline SearchSizes check_search(const Tensor& z, const Tensor& codebook) {
  check_float(z, "z");
  check_float(codebook, "codebook");
  check_same_device(codebook, "codebook", z);
  VQGAN_FAST_CHECK(z.dim() >= 2, "z must be (..., N, D), got ", shape_text(z));
  VQGAN_FAST_CHECK(codebook.dim() >= 2, "codebook must be (K, D) or (..., K, D), got ",
                   shape_text(codebook));
  const int64_t dim = z.size(z.dim() - 1);
  VQGAN_FAST_CHECK(dim >= 1, "z must be (..., N, D) with D >= 1, got ", shape_text(z));
  VQGAN_FAST_CHECK(codebook.size(codebook.dim() - 1) == dim, "codebook must be (",
                   codebook.dim() > 2 ? "..., " : "", "K, D) with D = ", dim, ", got ",
                   shape_text(codebook));
  const int64_t num_codes = codebook.size(codebook.dim() - 2);
  VQGAN_FAST_CHECK(num_codes >= 1, "codebook must have at least one code, got ",
                   shape_text(codebook));
  if (codebook.dim() == 2) {
    int64_t num_rows = 1;
    for (int64_t i = 0; i + 1 < z.dim(); ++i) num_rows *= z.size(i);
    return {1, num_rows, num_codes, dim};
  }
  bool same = codebook.dim() == z.dim();
  int64_t num_heads = 1;
  for (int64_t i = 0; same && i + 2 < z.dim(); ++i) {
    same = codebook.size(i) == z.size(i);
    num_heads *= z.size(i);
  }
  VQGAN_FAST_CHECK(same, "codebook must be (K, D) or (..., K, D) with the leading sizes of z ",
                   shape_text(z), ", got ", shape_text(codebook));
  return {num_heads, z.size(z.dim() - 2), num_codes, dim};
}

// indices must be int64 of shape z.shape[:-1].
inline void check_indices(const Tensor& indices, const Tensor& z) {
  VQGAN_FAST_CHECK(indices.defined(), "indices must be a tensor, got None");
  VQGAN_FAST_CHECK(indices.scalar_type() == ScalarType::Long, "indices must be int64, got ",
                   indices.scalar_type());
  check_same_device(indices, "indices", z);
  check_memory(indices, "indices");
  bool same = indices.dim() + 1 == z.dim();
  for (int64_t i = 0; same && i < indices.dim(); ++i) same = indices.size(i) == z.size(i);
  VQGAN_FAST_CHECK(same, "indices must have the shape of z ", shape_text(z),
                   " without its last dimension, got ", shape_text(indices));
}

// The gradient of z_q, like z.
inline void check_grad_z_q(const Tensor& grad_z_q, const Tensor& z) {
  check_float(grad_z_q, "grad_z_q");
  check_same_device(grad_z_q, "grad_z_q", z);
  bool same = grad_z_q.dim() == z.dim();
  for (int64_t i = 0; same && i < z.dim(); ++i) same = grad_z_q.size(i) == z.size(i);
  VQGAN_FAST_CHECK(same, "grad_z_q must have the shape of z ", shape_text(z), ", got ",
                   shape_text(grad_z_q));
}

// The gradient of one of the losses.
inline void check_loss_grad(const Tensor& t, const char* name, const Tensor& z) {
  VQGAN_FAST_CHECK(t.numel() == 1, name, " must have one element, got ", shape_text(t));
  VQGAN_FAST_CHECK(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double,
                   name, " must be float32 or float64, got ", t.scalar_type());
  check_same_device(t, name, z);
  check_memory(t, name);
}

struct StatsSizes {
  int64_t num_rows;
  int64_t dim;
};

inline StatsSizes check_stats(const Tensor& z, const Tensor& indices, int64_t num_codes) {
  check_float(z, "z");
  VQGAN_FAST_CHECK(z.dim() >= 2, "z must be (..., N, D), got ", shape_text(z));
  VQGAN_FAST_CHECK(num_codes >= 1, "num_codes must be at least 1, got ", num_codes);
  const int64_t dim = z.size(z.dim() - 1);
  VQGAN_FAST_CHECK(dim >= 1, "z must be (..., N, D) with D >= 1, got ", shape_text(z));
  constexpr int64_t kMost =
      std::numeric_limits<int64_t>::max() / 16;  // bytes of the sums, and some
  VQGAN_FAST_CHECK(num_codes <= kMost / dim, "num_codes must be at most ", kMost / dim,
                   " with D = ", dim, ", got ", num_codes);
  check_indices(indices, z);
  return {indices.numel(), dim};
}

// The type of distances, losses and sums: fp32, or fp64 if an input is.
inline ScalarType accumulation_type(const Tensor& z, const Tensor& codebook) {
  const bool fp64 =
      z.scalar_type() == ScalarType::Double || codebook.scalar_type() == ScalarType::Double;
  return fp64 ? ScalarType::Double : ScalarType::Float;
}

}  // namespace vqgan_fast::ops
