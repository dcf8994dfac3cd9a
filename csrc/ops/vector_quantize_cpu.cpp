#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>

#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/row_block.h"
#include "kernels/cpu/vector_quantize.h"
#include "ops/checks.h"
#include "ops/code_indices_cpu.h"
#include "ops/parallel_cpu.h"
#include "ops/tensor_rows.h"

namespace vqgan_fast::ops {
namespace {

// Not torch's fill_, which refuses what fp32 cannot hold: such a loss is infinite.
Tensor scalar(ScalarType type, double value) {
  const DefaultFloatMode float_mode;
  const Tensor t = empty_on_cpu({}, type);
  store_rows(contiguous_rows(t.data_ptr(), dtype_of(type), 1, 1), 0, 1, 1, &value);
  return t;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> vector_quantize_cpu(const Tensor& z,
                                                               const Tensor& codebook,
                                                               bool /*exact*/) {
  const SearchSizes sizes = check_search(z, codebook);
  const bool batched = codebook.dim() > 2;
  RowsLike z_q(z);
  Tensor indices = empty_on_cpu(index_shape(z), ScalarType::Long);
  Tensor holder;
  double sum = 0.0;
  if (z.numel() > 0) {
    for (int64_t h = 0; h < sizes.num_heads; ++h) {
      VectorQuantizeArgs args;
      args.z = batched ? head_rows(z, h) : rows_of(z, &holder);
      args.codebook = head_rows(codebook, h);
      args.z_q = z_q.rows(batched, h);
      args.num_rows = sizes.num_rows;
      args.num_codes = sizes.num_codes;
      args.dim = sizes.dim;
      args.indices = static_cast<int64_t*>(indices.data_ptr()) + h * sizes.num_rows;
      sum += vector_quantize(args, torch_parallel());
    }
  }
  // The mean over no elements is NaN, as torch has it.
  const double mean = sum / static_cast<double>(z.numel());
  const ScalarType loss_type = accumulation_type(z, codebook);
  return {z_q.finish(), indices, scalar(loss_type, mean), scalar(loss_type, mean)};
}

double value_of(const Tensor& scalar) {
  if (scalar.scalar_type() == ScalarType::Float) return *static_cast<float*>(scalar.data_ptr());
  return *static_cast<double*>(scalar.data_ptr());
}

std::tuple<Tensor, Tensor> vector_quantize_backward_cpu(std::optional<Tensor> grad_z_q,
                                                        const Tensor& grad_commitment,
                                                        const Tensor& grad_codebook_loss,
                                                        const Tensor& z, const Tensor& codebook,
                                                        const Tensor& indices, bool need_grad_z,
                                                        bool need_grad_codebook) {
  const SearchSizes sizes = check_search(z, codebook);
  check_indices(indices, z);
  if (grad_z_q.has_value()) check_grad_z_q(*grad_z_q, z);
  check_loss_grad(grad_commitment, "grad_commitment", z);
  check_loss_grad(grad_codebook_loss, "grad_codebook_loss", z);
  const bool batched = codebook.dim() > 2;
  const double per_element = z.numel() > 0 ? 2.0 / static_cast<double>(z.numel()) : 0.0;

  const Tensor flat = contiguous_indices(indices, sizes.num_codes);
  const auto* index = static_cast<const int64_t*>(flat.data_ptr());
  Tensor grad_codebook = need_grad_codebook ? on_large_pages(torch::stable::empty_like(codebook))
                                            : torch::stable::new_empty(codebook, {0});
  std::optional<RowsLike> grad_z;
  if (need_grad_z) grad_z.emplace(z);
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
      vector_quantize_grad_z(args, grad, per_element * value_of(grad_commitment),
                             grad_z->rows(batched, h), torch_parallel());
    }
    if (need_grad_codebook) {
      vector_quantize_grad_codebook(args, per_element * value_of(grad_codebook_loss),
                                    head_rows(grad_codebook, h), torch_parallel());
    }
  }
  return {need_grad_z ? grad_z->finish() : torch::stable::new_empty(z, {0}), grad_codebook};
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CPU, m) {
  m.impl("vector_quantize", TORCH_BOX(&vqgan_fast::ops::vector_quantize_cpu));
  m.impl("vector_quantize_backward", TORCH_BOX(&vqgan_fast::ops::vector_quantize_backward_cpu));
}
