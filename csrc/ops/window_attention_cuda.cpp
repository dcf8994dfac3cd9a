#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "kernels/cuda/decode.cuh"
#include "ops/cache_attention_args.h"
#include "ops/cuda_launch.h"

namespace vqgan_fast::ops {
namespace {

// A row whose integers are out of range comes out as NaN: raising would have to wait for the GPU.
Tensor window_attention_cuda(const Tensor& q, const Tensor& k, const Tensor& v,
                             const Tensor& k_cache, const Tensor& v_cache, const Tensor& slots,
                             const Tensor& positions, const Tensor& ends) {
  check_heads(q, k, v);
  const int64_t rows = q.size(0), heads = q.size(1), head_dim = q.size(2);
  check_cache(k_cache, v_cache, "(S, H, L, Dh)", q, {kAnySize, heads, kAnySize, head_dim});
  const int64_t length = k_cache.size(2);
  const CellTensors cells(q, rows, slots, positions, "positions", ends, "ends");
  Tensor y = torch::stable::new_empty(q, {rows, heads, head_dim});
  if (rows == 0) return y;
  const CudaContext context(q);
  const Tensor q_rows = torch::stable::contiguous(q), k_rows = torch::stable::contiguous(k),
               v_rows = torch::stable::contiguous(v);
  const Tensor workspace =
      scratch(q, sizeof(float) * cuda::attention_floats(rows, heads, head_dim, length));
  check_cuda(cuda::window_attention(
                 attention_args(q_rows, k_rows, v_rows, k_cache, v_cache, length, cells, y),
                 cells.window(), k_cache.size(0), floats_of(workspace), context.stream()),
             "window_attention");
  return y;
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CUDA, m) {
  m.impl("window_attention", TORCH_BOX(&vqgan_fast::ops::window_attention_cuda));
}
