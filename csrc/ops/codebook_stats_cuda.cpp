#include <torch/csrc/stable/library.h>

#include <tuple>

#include "kernels/cuda/code_order.cuh"
#include "kernels/cuda/codebook_stats.cuh"
#include "ops/cuda_launch.h"

namespace vqgan_fast::ops {
namespace {

// An index outside the codebook makes the sums NaN: raising would have to wait for the GPU.
std::tuple<Tensor, Tensor> codebook_stats_cuda(const Tensor& z, const Tensor& indices,
                                               int64_t num_codes) {
  const StatsSizes sizes = check_stats(z, indices, num_codes);
  const ScalarType sums_type = accumulation_type(z, z);
  Tensor counts = torch::stable::new_empty(z, {num_codes}, ScalarType::Long);
  Tensor sums = torch::stable::new_empty(z, {num_codes, sizes.dim}, sums_type);
  if (sizes.num_rows == 0) {
    return {torch::stable::fill_(counts, 0.0), torch::stable::fill_(sums, 0.0)};
  }

  const CudaContext context(z);
  const Tensor flat = torch::stable::contiguous(indices);
  const Tensor workspace = scratch(z, cuda::code_order_workspace_bytes(sizes.num_rows, num_codes));
  Tensor holder;
  cuda::CodebookStatsArgs args;
  args.z = rows_of(z, &holder);
  args.num_rows = sizes.num_rows;
  args.num_codes = num_codes;
  args.dim = sizes.dim;
  args.counts = static_cast<int64_t*>(counts.data_ptr());
  args.sums = sums.data_ptr();
  args.sums_dtype = dtype_of(sums_type);
  check_cuda(cuda::order_by_code(static_cast<const int64_t*>(flat.data_ptr()), sizes.num_rows,
                                 num_codes, workspace.data_ptr(), &args.rows, context.stream()),
             "codebook_stats");
  check_cuda(cuda::codebook_stats(args, context.stream()), "codebook_stats");
  return {counts, sums};
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CUDA, m) {
  m.impl("codebook_stats", TORCH_BOX(&vqgan_fast::ops::codebook_stats_cuda));
}
