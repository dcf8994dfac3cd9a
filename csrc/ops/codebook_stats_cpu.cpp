#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "kernels/cpu/codebook_stats.h"
#include "ops/checks.h"
#include "ops/code_indices_cpu.h"
#include "ops/parallel_cpu.h"
#include "ops/tensor_rows.h"

namespace vqgan_fast::ops {
namespace {

std::tuple<Tensor, Tensor> codebook_stats_cpu(const Tensor& z, const Tensor& indices,
                                              int64_t num_codes) {
  const StatsSizes sizes = check_stats(z, indices, num_codes);
  const Tensor flat = contiguous_indices(indices, num_codes);
  const ScalarType sums_type = accumulation_type(z, z);
  // The large one first: the small one could take the place where the last call's large one lay,
  // and new pages would be asked of the system.
  Tensor sums = on_large_pages(torch::stable::new_empty(z, {num_codes, sizes.dim}, sums_type));
  Tensor counts = torch::stable::new_empty(z, {num_codes}, ScalarType::Long);
  Tensor holder;
  codebook_stats(rows_of(z, &holder), static_cast<const int64_t*>(flat.data_ptr()), sizes.num_rows,
                 num_codes, sizes.dim, static_cast<int64_t*>(counts.data_ptr()),
                 dtype_of(sums_type), sums.data_ptr(), torch_parallel());
  return {counts, sums};
}

}  // namespace
}  // namespace vqgan_fast::ops

// Once more, for calls of which no gradient is asked: see _nearest_code_no_grad.
STABLE_TORCH_LIBRARY_FRAGMENT(vqgan_fast, m) {
  m.def(
      "_codebook_stats_no_grad(Tensor z, Tensor indices, int num_codes) -> (Tensor counts, Tensor "
      "sums)");
}

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CPU, m) {
  m.impl("_codebook_stats_no_grad", TORCH_BOX(&vqgan_fast::ops::codebook_stats_cpu));
  m.impl("codebook_stats", TORCH_BOX(&vqgan_fast::ops::codebook_stats_cpu));
}
