// The definition, as plain loops.
#include "kernels/cpu/cache_attention_softmax.h"
#include "kernels/cpu/element.h"

namespace vqgan_fast {
namespace {

template <class E>
void attend(const HeadAttention& head) {
  const auto* k = static_cast<const typename E::Storage*>(head.k);
  const auto* v = static_cast<const typename E::Storage*>(head.v);
  int64_t rank = 0;
  for (int64_t i = 0; i < head.num_runs; ++i) {
    for (int64_t n = 0; n < head.runs[i].count; ++n, ++rank) {
      const auto* key = k + (head.runs[i].begin + n) * head.head_dim;
      float c[8] = {};
      for (int64_t d = 0; d < head.head_dim; ++d) {
        c[d % 8] = fused(head.q[d], E::load(key[d]), c[d % 8]);
      }
      const float sum = ((c[0] + c[4]) + (c[2] + c[6])) + ((c[1] + c[5]) + (c[3] + c[7]));
      head.scores[rank] = sum * head.scale;
    }
  }
  const float total = exponentials(head.scores, head.entries);
  for (int64_t d = 0; d < head.head_dim; ++d) {
    float chain = 0.0f, sum = 0.0f;
    each_value(
        head,
        [&](int64_t entry, int64_t at) {
          chain = fused(head.scores[at], E::load(v[entry * head.head_dim + d]), chain);
        },
        [&](bool first) {
          sum = first ? chain : sum + chain;
          chain = 0.0f;
        });
    head.out[d] = sum / total;
  }
}

}  // namespace

void attend_head_baseline(const HeadAttention& head) {
  if (head.bfloat16) return attend<Bf16>(head);
  attend<Fp32>(head);
}

}  // namespace vqgan_fast
