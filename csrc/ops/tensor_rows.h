// What stands between tensors and the kernels of any device: the rows of a tensor.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/HeaderOnlyArrayRef.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/cpu/large_pages.h"
#include "kernels/cpu/rows.h"
#include "ops/check.h"

namespace vqgan_fast::ops {

using torch::headeronly::IntHeaderOnlyArrayRef;
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
      VQGAN_FAST_CHECK(false, "no kernel for ", type);
  }
}

constexpr auto kLeastLargeElements = static_cast<int64_t>(kLeastLargeBytes / sizeof(double));

// The same tensor, nothing of which has been written yet. A small one is asked for its size alone:
// each question takes a part of what a call on a few rows takes.
inline Tensor on_large_pages(const Tensor& t) {
  if (t.numel() >= kLeastLargeElements && t.is_cpu()) {
    ask_for_large_pages(t.data_ptr(), t.numel() * t.element_size());
  }
  return t;
}

// An uninitialised, contiguous tensor in the memory of the host. torch::stable::empty looks aten's
// operator up by name and boxes the arguments: a good part of what a call on a few rows takes.
inline Tensor empty_on_cpu(IntHeaderOnlyArrayRef sizes, ScalarType type) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= std::max<int64_t>(sizes[i], 1);
  }
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)),
      aoti_torch_device_type_cpu(), 0, &handle));
  const Tensor t(handle);
  if (stride >= kLeastLargeElements) return on_large_pages(t);
  return t;
}

// The rows of t (..., D), all leading dimensions as one, if their strides allow two levels.
inline std::optional<Rows> try_rows_of(const Tensor& t) {
  return rows_of_array(t.data_ptr(), dtype_of(t.scalar_type()), t.dim(), t.sizes().data(),
                       t.strides().data());
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

// A tensor shaped and laid out like another, to be written row by row. Where its strides need more
// than two levels, rows are written to a contiguous tensor that `finish` copies to its place.
class RowsLike {
 public:
  explicit RowsLike(const Tensor& like)
      : tensor_(on_large_pages(torch::stable::empty_like(like))), written_(tensor_) {
    if (tensor_.numel() == 0 || try_rows_of(tensor_)) return;
    written_ = on_large_pages(torch::stable::new_empty(like, like.sizes()));
    copied_ = true;
  }
  // Of head h if there is a codebook for each head, else of the whole tensor.
  Rows rows(bool batched, int64_t h) const {
    return batched ? head_rows(written_, h) : *try_rows_of(written_);
  }
  Tensor finish() {
    if (copied_) torch::stable::copy_(tensor_, written_);
    return tensor_;
  }

 private:
  Tensor tensor_;
  Tensor written_;
  bool copied_ = false;
};

}  // namespace vqgan_fast::ops
