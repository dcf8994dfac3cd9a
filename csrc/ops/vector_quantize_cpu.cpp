#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>
#include <vector>

#include "kernels/cpu/codebook_stats.h"
#include "kernels/cpu/vector_quantize.h"
#include "ops/checks.h"
#include "ops/rows_cpu.h"

namespace vqgan_fast::ops {
namespace {

// The rows of a tensor that is to be written. One whose strides need more than two levels is
// written to a contiguous tensor first; `finish` then copies that to its place.
class OutputRows {
 public:
  explicit OutputRows(const Tensor& t) : target_(t), written_(t) {
    if (t.numel() > 0 && !try_rows_of(t)) {
      std::vector<int64_t> shape;
      for (int64_t i = 0; i < t.dim(); ++i) shape.push_back(t.size(i));
      written_ = torch::stable::new_empty(t, shape);
      copied_ = true;
    }
  }
  // Of head h if there is a codebook for each head, else of the whole tensor.
  Rows rows(bool batched, int64_t h) const {
    return batched ? head_rows(written_, h) : *try_rows_of(written_);
  }
  void finish() {
    if (copied_) torch::stable::copy_(target_, written_);
  }

 private:
  Tensor target_;
  Tensor written_;
  bool copied_ = false;
};

Tensor scalar(const Tensor& like, ScalarType type, double value) {
  Tensor t = torch::stable::new_empty(like, {}, type);
  return torch::stable::fill_(t, value);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> vector_quantize_cpu(const Tensor& z,
                                                               const Tensor& codebook, bool exact) {
  const SearchSizes sizes = check_search(z, codebook);
  const bool batched = codebook.dim() > 2;
  Tensor z_q = torch::stable::empty_like(z);
  std::vector<int64_t> index_shape;
  for (int64_t i = 0; i + 1 < z.dim(); ++i) index_shape.push_back(z.size(i));
  Tensor indices = torch::stable::new_empty(z, index_shape, ScalarType::Long);
  OutputRows output(z_q);
  Tensor holder;
  double sum = 0.0;
  if (z.numel() > 0) {
    for (int64_t h = 0; h < sizes.num_heads; ++h) {
      VectorQuantizeArgs args;
      args.z = batched ? head_rows(z, h) : rows_of(z, &holder);
      args.codebook = head_rows(codebook, h);
      args.z_q = output.rows(batched, h);
      args.num_rows = sizes.num_rows;
      args.num_codes = sizes.num_codes;
      args.dim = sizes.dim;
      args.exact = exact;
      args.indices = static_cast<int64_t*>(indices.data_ptr()) + h * sizes.num_rows;
      sum += vector_quantize(args, torch_parallel());
    }
    output.finish();
  }
  // The mean over no elements is NaN, as torch has it.
  const double mean = sum / static_cast<double>(z.numel());
  const ScalarType loss_type = accumulation_type(z, codebook);
  return {z_q, indices, scalar(z, loss_type, mean), scalar(z, loss_type, mean)};
}

double scalar_value(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.numel() == 1, name, " must have one element, got ", shape_text(t));
  if (t.scalar_type() == ScalarType::Double) return *static_cast<const double*>(t.data_ptr());
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float, name, " must be float32 or float64, got ",
                  t.scalar_type());
  return *static_cast<const float*>(t.data_ptr());
}

std::tuple<Tensor, Tensor> vector_quantize_backward_cpu(std::optional<Tensor> grad_z_q,
                                                        const Tensor& grad_commitment,
                                                        const Tensor& grad_codebook_loss,
                                                        const Tensor& z, const Tensor& codebook,
                                                        const Tensor& indices, bool need_grad_z,
                                                        bool need_grad_codebook) {
  const SearchSizes sizes = check_search(z, codebook);
  check_indices(indices, z);
  const bool batched = codebook.dim() > 2;
  if (grad_z_q.has_value()) {
    check_float(*grad_z_q, "grad_z_q");
    bool same = grad_z_q->dim() == z.dim();
    for (int64_t i = 0; same && i < z.dim(); ++i) same = grad_z_q->size(i) == z.size(i);
    STD_TORCH_CHECK(same, "grad_z_q must have the shape of z ", shape_text(z), ", got ",
                    shape_text(*grad_z_q));
  }
  const double per_element = z.numel() > 0 ? 2.0 / static_cast<double>(z.numel()) : 0.0;
  const double z_scale = per_element * scalar_value(grad_commitment, "grad_commitment");
  const double codebook_scale =
      per_element * scalar_value(grad_codebook_loss, "grad_codebook_loss");

  const Tensor flat = torch::stable::contiguous(indices);
  const auto* index = static_cast<const int64_t*>(flat.data_ptr());
  const int64_t bad = find_bad_index(index, flat.numel(), sizes.num_codes);
  STD_TORCH_CHECK(bad < 0, "indices must lie in [0, ", sizes.num_codes, "), got ", index[bad],
                  " at flat position ", bad);

  Tensor grad_z = need_grad_z ? torch::stable::empty_like(z) : torch::stable::new_empty(z, {0});
  Tensor grad_codebook = need_grad_codebook ? torch::stable::empty_like(codebook)
                                            : torch::stable::new_empty(codebook, {0});
  OutputRows grad_z_output(grad_z);
  Tensor z_holder, grad_holder;
  for (int64_t h = 0; h < sizes.num_heads; ++h) {
    VectorQuantizeBackwardArgs args;
    args.z = batched ? head_rows(z, h) : rows_of(z, &z_holder);
    args.codebook = head_rows(codebook, h);
    args.indices = index + h * sizes.num_rows;
    args.num_rows = sizes.num_rows;
    args.num_codes = sizes.num_codes;
    args.dim = sizes.dim;
    if (need_grad_z && z.numel() > 0) {
      Rows grad;
      if (grad_z_q.has_value()) {
        grad = batched ? head_rows(*grad_z_q, h) : rows_of(*grad_z_q, &grad_holder);
      }
      vector_quantize_grad_z(args, grad, z_scale, grad_z_output.rows(batched, h), torch_parallel());
    }
    if (need_grad_codebook) {
      vector_quantize_grad_codebook(args, codebook_scale, head_rows(grad_codebook, h),
                                    torch_parallel());
    }
  }
  grad_z_output.finish();
  return {grad_z, grad_codebook};
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CPU, m) {
  m.impl("vector_quantize", TORCH_BOX(&vqgan_fast::ops::vector_quantize_cpu));
  m.impl("vector_quantize_backward", TORCH_BOX(&vqgan_fast::ops::vector_quantize_backward_cpu));
}
