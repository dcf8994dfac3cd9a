#include <torch/csrc/stable/library.h>

#include <limits>
#include <optional>
#include <tuple>

#include "kernels/cuda/code_order.cuh"
#include "kernels/cuda/nearest_code.cuh"
#include "kernels/cuda/vector_quantize.cuh"
#include "ops/cuda_launch.h"
#include "ops/nearest_code_search.h"

namespace vqgan_fast::ops {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> vector_quantize_cuda(const Tensor& z,
                                                                const Tensor& codebook,
                                                                bool exact) {
  const SearchSizes sizes = check_search(z, codebook);
  const bool batched = codebook.dim() > 2;
  const ScalarType loss_type = accumulation_type(z, codebook);
  RowsLike z_q(z);
  const Tensor indices = torch::stable::new_empty(z, index_shape(z), ScalarType::Long);
  Tensor commitment_loss = torch::stable::new_empty(z, {}, loss_type);
  Tensor codebook_loss = torch::stable::new_empty(z, {}, loss_type);
  if (z.numel() == 0) {  // the mean over no elements is NaN, as torch has it
    const double nan = std::numeric_limits<double>::quiet_NaN();
    return {z_q.finish(), indices, torch::stable::fill_(commitment_loss, nan),
            torch::stable::fill_(codebook_loss, nan)};
  }

  const CudaContext context(z);
  const int64_t all_rows = indices.numel();
  const Tensor distances = torch::stable::new_empty(z, {all_rows}, ScalarType::Double);
  cuda::NearestCodeArgs search = search_args(z, codebook, sizes, exact);
  search.distance_dtype = DType::kFloat64;
  const Tensor workspace = search_scratch(z, search, "vector_quantize");
  search.workspace = workspace.data_ptr();
  Tensor holder;
  for (int64_t h = 0; h < sizes.num_heads; ++h) {
    search.z = batched ? head_rows(z, h) : rows_of(z, &holder);
    search.codebook = head_rows(codebook, h);
    search.indices = static_cast<int64_t*>(indices.data_ptr()) + h * sizes.num_rows;
    search.distances = static_cast<double*>(distances.data_ptr()) + h * sizes.num_rows;
    check_cuda(cuda::nearest_code(search, context.stream()), "vector_quantize");

    cuda::StraightThroughArgs args;
    args.z = search.z;
    args.codebook = search.codebook;
    args.indices = search.indices;
    args.num_rows = sizes.num_rows;
    args.dim = sizes.dim;
    args.promoted = promoted(search.z.dtype, search.codebook.dtype);
    args.z_q = z_q.rows(batched, h);
    check_cuda(cuda::straight_through(args, context.stream()), "vector_quantize");
  }
  const Tensor sums = scratch(z, sizeof(double) * cuda::mean_workspace_doubles(all_rows));
  check_cuda(cuda::mean_distance(static_cast<const double*>(distances.data_ptr()), all_rows,
                                 static_cast<double>(z.numel()),
                                 static_cast<double*>(sums.data_ptr()), commitment_loss.data_ptr(),
                                 codebook_loss.data_ptr(), dtype_of(loss_type), context.stream()),
             "vector_quantize");
  return {z_q.finish(), indices, commitment_loss, codebook_loss};
}

// A row whose index lies outside the codebook gets a NaN gradient: raising would have to wait for
// the GPU.
std::tuple<Tensor, Tensor> vector_quantize_backward_cuda(std::optional<Tensor> grad_z_q,
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
  const Tensor nothing = torch::stable::new_empty(z, {0});
  Tensor grad_codebook = need_grad_codebook ? torch::stable::empty_like(codebook)
                                            : torch::stable::new_empty(codebook, {0});
  if (z.numel() == 0) {
    return {need_grad_z ? torch::stable::empty_like(z) : nothing,
            torch::stable::fill_(grad_codebook, 0.0)};
  }

  const CudaContext context(z);
  const Tensor flat = torch::stable::contiguous(indices);
  const double per_element = 2.0 / static_cast<double>(z.numel());
  std::optional<RowsLike> grad_z;
  if (need_grad_z) grad_z.emplace(z);
  const Tensor workspace = scratch(
      z,
      need_grad_codebook ? cuda::code_order_workspace_bytes(sizes.num_rows, sizes.num_codes) : 0);
  Tensor z_holder, grad_holder;
  for (int64_t h = 0; h < sizes.num_heads; ++h) {
    const Rows z_rows = batched ? head_rows(z, h) : rows_of(z, &z_holder);
    const Rows codebook_rows = head_rows(codebook, h);
    const auto* index = static_cast<const int64_t*>(flat.data_ptr()) + h * sizes.num_rows;
    if (need_grad_z) {
      cuda::GradZArgs args;
      if (grad_z_q.has_value()) {
        args.grad_z_q = batched ? head_rows(*grad_z_q, h) : rows_of(*grad_z_q, &grad_holder);
      }
      args.grad_commitment = grad_commitment.data_ptr();
      args.grad_commitment_dtype = dtype_of(grad_commitment.scalar_type());
      args.z = z_rows;
      args.codebook = codebook_rows;
      args.indices = index;
      args.num_rows = sizes.num_rows;
      args.num_codes = sizes.num_codes;
      args.dim = sizes.dim;
      args.per_element = per_element;
      args.grad_z = grad_z->rows(batched, h);
      check_cuda(cuda::grad_z(args, context.stream()), "vector_quantize_backward");
    }
    if (need_grad_codebook) {
      cuda::GradCodebookArgs args;
      args.grad_codebook_loss = grad_codebook_loss.data_ptr();
      args.grad_codebook_loss_dtype = dtype_of(grad_codebook_loss.scalar_type());
      args.z = z_rows;
      args.codebook = codebook_rows;
      args.num_codes = sizes.num_codes;
      args.dim = sizes.dim;
      args.per_element = per_element;
      args.grad_codebook = head_rows(grad_codebook, h);
      check_cuda(cuda::order_by_code(index, sizes.num_rows, sizes.num_codes, workspace.data_ptr(),
                                     &args.rows, context.stream()),
                 "vector_quantize_backward");
      check_cuda(cuda::grad_codebook(args, context.stream()), "vector_quantize_backward");
    }
  }
  return {need_grad_z ? grad_z->finish() : nothing, grad_codebook};
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CUDA, m) {
  m.impl("vector_quantize", TORCH_BOX(&vqgan_fast::ops::vector_quantize_cuda));
  m.impl("vector_quantize_backward", TORCH_BOX(&vqgan_fast::ops::vector_quantize_backward_cuda));
}
