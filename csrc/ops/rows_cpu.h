// What stands between tensors and the CPU kernels: the rows of a tensor, and torch's threads.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"

namespace vqgan_fast::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType dtype_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    default:
      STD_TORCH_CHECK(false, "no kernel for ", type);
  }
}

// The rows of t (..., D), all leading dimensions as one, if their strides allow two levels.
inline std::optional<Rows> try_rows_of(const Tensor& t) {
  Rows rows;
  rows.data = t.data_ptr();
  rows.dtype = dtype_of(t.scalar_type());
  rows.element_stride = t.stride(t.dim() - 1);
  int levels = 0;
  int64_t size = 1, stride = 0;  // of the level that grows, from the innermost dimension outwards
  for (int64_t i = t.dim() - 2; i >= 0; --i) {
    if (t.size(i) == 1) continue;
    if (levels > 0 && t.stride(i) == stride * size) {
      size *= t.size(i);
      continue;
    }
    if (levels == 1) {
      rows.inner_rows = size;
      rows.inner_stride = stride;
    }
    if (levels == 2) return std::nullopt;
    ++levels;
    size = t.size(i);
    stride = t.stride(i);
  }
  if (levels == 2) {
    rows.outer_stride = stride;
  } else {
    rows.inner_rows = size;
    rows.inner_stride = stride;
  }
  return rows;
}

// The rows of t for reading. Where its strides need more than two levels, *holder becomes a
// contiguous copy; it must outlive the rows.
inline Rows rows_of(const Tensor& t, Tensor* holder) {
  *holder = t;
  if (const auto rows = try_rows_of(t)) return *rows;
  *holder = torch::stable::contiguous(t);
  return *try_rows_of(*holder);
}

// The (N, D) matrix of head h of t (heads..., N, D).
inline Rows head_rows(const Tensor& t, int64_t h) {
  int64_t offset = 0;
  for (int64_t i = t.dim() - 3; i >= 0; --i) {
    offset += h % t.size(i) * t.stride(i);
    h /= t.size(i);
  }
  Rows rows;
  rows.data =
      static_cast<const char*>(t.data_ptr()) + offset * static_cast<int64_t>(t.element_size());
  rows.dtype = dtype_of(t.scalar_type());
  rows.inner_rows = t.size(t.dim() - 2);
  rows.inner_stride = t.stride(t.dim() - 2);
  rows.element_stride = t.stride(t.dim() - 1);
  return rows;
}

// Threads of torch's own pool: torch.set_num_threads decides.
inline Parallel torch_parallel() {
  Parallel parallel;
  parallel.num_threads = static_cast<int>(torch::stable::get_num_threads());
  parallel.run = [](int64_t begin, int64_t end, int64_t grain, const RangeBody& body) {
    torch::stable::parallel_for(begin, end, grain, body);
  };
  return parallel;
}

}  // namespace vqgan_fast::ops
