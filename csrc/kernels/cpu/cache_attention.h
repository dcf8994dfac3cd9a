// Attention of rows to cached keys and values. A row attends entries of its slot that lie in runs;
// which runs is what window_attention and grid_attention differ in. The order of every sum is
// docs/decode_numerics.md's, "Attention".
#pragma once

#include <cstdint>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

// Entries [begin, begin + count) of a slot's head.
struct CacheRun {
  int64_t begin;
  int64_t count;
};

// One head of one row, as a SIMD level computes it.
struct HeadAttention {
  const float* q;  // (head_dim,)
  const void* k;   // (entries, head_dim) of the slot's head
  const void* v;
  bool bfloat16;  // type of k and v
  int64_t head_dim;
  float scale;
  const CacheRun* runs;
  int64_t num_runs;
  int64_t entries;  // in all runs
  float* scores;    // room for `entries`, and 7 more
  float* out;       // (head_dim,)
};

void attend_head_baseline(const HeadAttention& head);
#ifdef VQGAN_FAST_HAS_CACHE_ATTENTION_AVX2
void attend_head_avx2(const HeadAttention& head);
#endif

struct CacheAttentionArgs {
  // Row r, head h begins at r * row_stride + h * head_dim.
  const float* q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  int64_t row_stride = 0;
  int64_t rows = 0;
  int64_t heads = 0;
  int64_t head_dim = 0;
  void* k_cache = nullptr;  // (slots, heads, slot_entries, head_dim)
  void* v_cache = nullptr;
  bool bfloat16 = false;
  int64_t slot_entries = 0;
  const int64_t* slots = nullptr;
  float* out = nullptr;  // (rows, heads, head_dim)
};

// Where rows write and what they attend, for the first `length` entries of a slot.
struct WindowCells {
  const int64_t* positions;
  const int64_t* ends;

  int64_t written(int64_t row) const { return positions[row]; }
  int64_t max_runs() const { return 1; }
  int64_t runs(int64_t row, CacheRun* runs) const {
    runs[0] = {0, ends[row]};
    return 1;
  }
};

// The same for a window of cells around (rows[r], columns[r]) in a ring of rows.
struct GridCells {
  const int64_t* rows;
  const int64_t* columns;
  int64_t ring_rows;
  int64_t cache_columns;
  int64_t width;
  int64_t up;
  int64_t left;
  int64_t right;

  int64_t written(int64_t row) const {
    return rows[row] % ring_rows * cache_columns + columns[row];
  }
  int64_t max_runs() const { return up + 1; }
  int64_t runs(int64_t row, CacheRun* runs) const {
    const int64_t i = rows[row], j = columns[row];
    const int64_t first = j > left ? j - left : 0;
    const int64_t last = right < width - j ? j + right : width - 1;
    int64_t count = 0;
    for (int64_t above = i > up ? i - up : 0; above < i; ++above) {
      runs[count++] = {above % ring_rows * cache_columns + first, last - first + 1};
    }
    runs[count++] = {i % ring_rows * cache_columns + first, j - first + 1};
    return count;
  }
};

void window_attention(const CacheAttentionArgs& args, const WindowCells& cells, SimdLevel level,
                      const Parallel& parallel);
void grid_attention(const CacheAttentionArgs& args, const GridCells& cells, SimdLevel level,
                    const Parallel& parallel);

}  // namespace vqgan_fast
