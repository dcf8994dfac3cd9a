#include "kernels/cpu/cache_attention.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/element.h"
#include "kernels/cpu/float_mode.h"

namespace vqgan_fast {
namespace {

constexpr int64_t kThreadElements = 1 << 15;  // for fewer a thread costs more than it gains

using HeadTask = void (*)(const HeadAttention& head);

HeadTask head_task(SimdLevel level) {
#ifdef VQGAN_FAST_HAS_CACHE_ATTENTION_AVX2
  if (level >= SimdLevel::kAvx2) return attend_head_avx2;
#endif
  static_cast<void>(level);
  return attend_head_baseline;
}

void write_entry(const float* from, bool bfloat16, int64_t count, int64_t entry, void* cache) {
  if (!bfloat16) {
    std::memcpy(static_cast<float*>(cache) + entry, from, count * sizeof(float));
    return;
  }
  uint16_t* to = static_cast<uint16_t*>(cache) + entry;
  for (int64_t d = 0; d < count; ++d) to[d] = Bf16::store(from[d]);
}

void* entry_of(void* cache, bool bfloat16, int64_t entry) {
  return static_cast<char*>(cache) + entry * (bfloat16 ? 2 : 4);
}

// Work is split over (head, row), heads first: neighbours share a head's keys and values.
template <class Cells>
void attention(const CacheAttentionArgs& args, const Cells& cells, SimdLevel level,
               const Parallel& parallel) {
  const int64_t pairs = args.heads * args.rows;
  if (pairs == 0) return;
  const auto head_begin = [&](int64_t head, int64_t row) {
    return (args.slots[row] * args.heads + head) * args.slot_entries * args.head_dim;
  };
  const auto row_begin = [&](int64_t head, int64_t row) {
    return row * args.row_stride + head * args.head_dim;
  };
  parallel.run(0, pairs, 1 + kThreadElements / args.head_dim, [&](int64_t begin, int64_t end) {
    for (int64_t pair = begin; pair < end; ++pair) {
      const int64_t head = pair / args.rows, row = pair % args.rows;
      const int64_t entry = head_begin(head, row) + cells.written(row) * args.head_dim;
      const int64_t from = row_begin(head, row);
      write_entry(args.k + from, args.bfloat16, args.head_dim, entry, args.k_cache);
      write_entry(args.v + from, args.bfloat16, args.head_dim, entry, args.v_cache);
    }
  });
  const HeadTask task = head_task(level);
  const float scale = 1.0f / std::sqrt(static_cast<float>(args.head_dim));
  parallel.run(0, pairs, 1, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    std::vector<CacheRun> runs(cells.max_runs());
    std::vector<float> scores;
    for (int64_t pair = begin; pair < end; ++pair) {
      const int64_t head = pair / args.rows, row = pair % args.rows;
      const int64_t num_runs = cells.runs(row, runs.data());
      int64_t entries = 0;
      for (int64_t i = 0; i < num_runs; ++i) entries += runs[i].count;
      scores.resize(entries + 7);
      const int64_t cache = head_begin(head, row);
      task({args.q + row_begin(head, row), entry_of(args.k_cache, args.bfloat16, cache),
            entry_of(args.v_cache, args.bfloat16, cache), args.bfloat16, args.head_dim, scale,
            runs.data(), num_runs, entries, scores.data(),
            args.out + (row * args.heads + head) * args.head_dim});
    }
  });
}

}  // namespace

void window_attention(const CacheAttentionArgs& args, const WindowCells& cells, SimdLevel level,
                      const Parallel& parallel) {
  attention(args, cells, level, parallel);
}

void grid_attention(const CacheAttentionArgs& args, const GridCells& cells, SimdLevel level,
                    const Parallel& parallel) {
  attention(args, cells, level, parallel);
}

}  // namespace vqgan_fast
