// The arguments of both attentions, as kernels of any device take them.
#pragma once

#include "kernels/cpu/cache_attention.h"
#include "ops/cells.h"

namespace vqgan_fast::ops {

// q, k and v (R, H, Dh), contiguous; caches whose slots hold `slot_entries` for each head.
inline CacheAttentionArgs attention_args(const Tensor& q, const Tensor& k, const Tensor& v,
                                         const Tensor& k_cache, const Tensor& v_cache,
                                         int64_t slot_entries, const CellTensors& cells,
                                         const Tensor& y) {
  CacheAttentionArgs args;
  args.q = floats_of(q);
  args.k = floats_of(k);
  args.v = floats_of(v);
  args.row_stride = q.size(1) * q.size(2);
  args.rows = q.size(0);
  args.heads = q.size(1);
  args.head_dim = q.size(2);
  args.k_cache = k_cache.data_ptr();
  args.v_cache = v_cache.data_ptr();
  args.bfloat16 = k_cache.scalar_type() == ScalarType::BFloat16;
  args.slot_entries = slot_entries;
  args.slots = integers_of(cells.slots);
  args.out = floats_of(y);
  return args;
}

}  // namespace vqgan_fast::ops
