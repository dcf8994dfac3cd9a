#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "kernels/cpu/cache_attention.h"
#include "ops/cache_attention_args.h"
#include "ops/parallel_cpu.h"
#include "ops/tensor_rows.h"

namespace vqgan_fast::ops {
namespace {

Tensor grid_attention_cpu(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& k_cache,
                          const Tensor& v_cache, const Tensor& slots, const Tensor& rows,
                          const Tensor& columns, int64_t width, int64_t up, int64_t left,
                          int64_t right) {
  check_heads(q, k, v);
  const int64_t count = q.size(0);
  check_cache(k_cache, v_cache, "(S, H, ring_rows, W, Dh)", q,
              {kAnySize, q.size(1), kAnySize, kAnySize, q.size(2)});
  const int64_t ring_rows = k_cache.size(2), cache_columns = k_cache.size(3);
  check_ring(ring_rows, cache_columns, width, up, left, right);
  const CellTensors cells(q, count, slots, rows, "rows", columns, "columns");
  check_grid_range(cells, count, k_cache.size(0), width);
  Tensor y = empty_on_cpu({count, q.size(1), q.size(2)}, ScalarType::Float);
  const Tensor q_rows = torch::stable::contiguous(q), k_rows = torch::stable::contiguous(k),
               v_rows = torch::stable::contiguous(v);
  grid_attention(
      attention_args(q_rows, k_rows, v_rows, k_cache, v_cache, ring_rows * cache_columns, cells, y),
      {integers_of(cells.first), integers_of(cells.second), ring_rows, cache_columns, width, up,
       left, right},
      simd_level(), torch_parallel());
  return y;
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CPU, m) {
  m.impl("grid_attention", TORCH_BOX(&vqgan_fast::ops::grid_attention_cpu));
}
