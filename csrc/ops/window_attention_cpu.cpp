#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "kernels/cpu/cache_attention.h"
#include "ops/cache_attention_args.h"
#include "ops/parallel_cpu.h"
#include "ops/tensor_rows.h"

namespace vqgan_fast::ops {
namespace {

Tensor window_attention_cpu(const Tensor& q, const Tensor& k, const Tensor& v,
                            const Tensor& k_cache, const Tensor& v_cache, const Tensor& slots,
                            const Tensor& positions, const Tensor& ends) {
  check_heads(q, k, v);
  const int64_t rows = q.size(0);
  check_cache(k_cache, v_cache, "(S, H, L, Dh)", q, {kAnySize, q.size(1), kAnySize, q.size(2)});
  const CellTensors cells(q, rows, slots, positions, "positions", ends, "ends");
  check_window_range(cells, rows, k_cache.size(0), k_cache.size(2));
  Tensor y = empty_on_cpu({rows, q.size(1), q.size(2)}, ScalarType::Float);
  const Tensor q_rows = torch::stable::contiguous(q), k_rows = torch::stable::contiguous(k),
               v_rows = torch::stable::contiguous(v);
  window_attention(
      attention_args(q_rows, k_rows, v_rows, k_cache, v_cache, k_cache.size(2), cells, y),
      cells.window(), simd_level(), torch_parallel());
  return y;
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CPU, m) {
  m.impl("window_attention", TORCH_BOX(&vqgan_fast::ops::window_attention_cpu));
}
