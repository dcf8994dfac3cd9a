#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "kernels/cuda/decode.cuh"
#include "ops/cache_attention_args.h"
#include "ops/cuda_launch.h"

namespace vqgan_fast::ops {
namespace {

// A row whose integers are out of range comes out as NaN: raising would have to wait for the GPU.
Tensor grid_attention_cuda(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& k_cache,
                           const Tensor& v_cache, const Tensor& slots, const Tensor& rows,
                           const Tensor& columns, int64_t width, int64_t up, int64_t left,
                           int64_t right) {
  check_heads(q, k, v);
  const int64_t count = q.size(0), heads = q.size(1), head_dim = q.size(2);
  check_cache(k_cache, v_cache, "(S, H, ring_rows, W, Dh)", q,
              {kAnySize, heads, kAnySize, kAnySize, head_dim});
  const int64_t ring_rows = k_cache.size(2), cache_columns = k_cache.size(3);
  check_ring(ring_rows, cache_columns, width, up, left, right);
  const CellTensors tensors(q, count, slots, rows, "rows", columns, "columns");
  Tensor y = torch::stable::new_empty(q, {count, heads, head_dim});
  if (count == 0) return y;
  const CudaContext context(q);
  const GridCells cells = {integers_of(tensors.first),
                           integers_of(tensors.second),
                           ring_rows,
                           cache_columns,
                           width,
                           up,
                           left,
                           right};
  const Tensor q_rows = torch::stable::contiguous(q), k_rows = torch::stable::contiguous(k),
               v_rows = torch::stable::contiguous(v);
  const Tensor workspace = scratch(
      q, sizeof(float) * cuda::attention_floats(count, heads, head_dim, cuda::max_entries(cells)));
  check_cuda(cuda::grid_attention(attention_args(q_rows, k_rows, v_rows, k_cache, v_cache,
                                                 ring_rows * cache_columns, tensors, y),
                                  cells, k_cache.size(0), floats_of(workspace), context.stream()),
             "grid_attention");
  return y;
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CUDA, m) {
  m.impl("grid_attention", TORCH_BOX(&vqgan_fast::ops::grid_attention_cuda));
}
