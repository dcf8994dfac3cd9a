// One kernel writes all rows' keys and values, a second has a block for each row and head.
#include <cstdint>

#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/warp_sums.cuh"
#include "kernels/decode_math.h"

namespace vqgan_fast {
namespace cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kValueSegment = 64;  // as in kernels/cpu/cache_attention_softmax.h

struct Window {
  WindowCells cells;
  int64_t length;

  __device__ bool valid(int64_t row) const {
    return cells.positions[row] >= 0 && cells.positions[row] < length && cells.ends[row] >= 1 &&
           cells.ends[row] <= length;
  }
  __device__ int64_t written(int64_t row) const { return cells.positions[row]; }
  __device__ int64_t entries(int64_t row) const { return cells.ends[row]; }
  __device__ int64_t entry(int64_t, int64_t rank) const { return rank; }
};

// Divides in 32 bits: rows are below 2^31, and so are ranks and entries (attention() sees to it).
struct Grid {
  GridCells cells;

  __device__ bool valid(int64_t row) const {
    return cells.rows[row] >= 0 && cells.rows[row] < int64_t{1} << 31 && cells.columns[row] >= 0 &&
           cells.columns[row] < cells.width;
  }
  __device__ int64_t at(int64_t i, int64_t j) const {
    const uint32_t ring_row = static_cast<uint32_t>(i) % static_cast<uint32_t>(cells.ring_rows);
    return ring_row * cells.cache_columns + j;
  }
  __device__ int64_t first(int64_t j) const { return j > cells.left ? j - cells.left : 0; }
  __device__ int64_t across(int64_t j) const {
    const int64_t last = cells.right < cells.width - j ? j + cells.right : cells.width - 1;
    return last - first(j) + 1;
  }
  __device__ int64_t above(int64_t i) const { return i < cells.up ? i : cells.up; }
  __device__ int64_t written(int64_t row) const { return at(cells.rows[row], cells.columns[row]); }
  __device__ int64_t entries(int64_t row) const {
    const int64_t j = cells.columns[row];
    return above(cells.rows[row]) * across(j) + j - first(j) + 1;
  }
  __device__ int64_t entry(int64_t row, int64_t rank) const {
    const int64_t i = cells.rows[row], j = cells.columns[row], wide = across(j);
    const int64_t full = static_cast<uint32_t>(rank) / static_cast<uint32_t>(wide);
    const int64_t line = full < above(i) ? full : above(i);
    return at(i - above(i) + line, first(j) + rank - line * wide);
  }
};

__device__ inline float load_entry(const void* cache, bool bfloat16, int64_t i) {
  if (!bfloat16) return static_cast<const float*>(cache)[i];
  return float_from_bits(static_cast<uint32_t>(static_cast<const uint16_t*>(cache)[i]) << 16);
}

__device__ inline void store_entry(void* cache, bool bfloat16, int64_t i, float value) {
  if (bfloat16) {
    static_cast<uint16_t*>(cache)[i] = store_bfloat16(value);
  } else {
    static_cast<float*>(cache)[i] = value;
  }
}

template <class Cells>
__device__ bool valid_row(const CacheAttentionArgs& args, const Cells& cells, int64_t num_slots,
                          int64_t row) {
  return args.slots[row] >= 0 && args.slots[row] < num_slots && cells.valid(row);
}

template <class Cells>
__global__ void __launch_bounds__(kThreads)
    append_kernel(CacheAttentionArgs args, Cells cells, int64_t num_slots) {
  const int64_t row = blockIdx.x, head = blockIdx.y;
  if (!valid_row(args, cells, num_slots, row)) return;
  const int64_t slot = (args.slots[row] * args.heads + head) * args.slot_entries;
  const int64_t to = (slot + cells.written(row)) * args.head_dim;
  const int64_t from = row * args.row_stride + head * args.head_dim;
  for (int64_t d = threadIdx.x; d < args.head_dim; d += kThreads) {
    store_entry(args.k_cache, args.bfloat16, to + d, args.k[from + d]);
    store_entry(args.v_cache, args.bfloat16, to + d, args.v[from + d]);
  }
}

template <class Cells>
__global__ void __launch_bounds__(kThreads)
    attend_kernel(CacheAttentionArgs args, Cells cells, int64_t num_slots, float scale,
                  int64_t block_floats, int64_t most_entries, float* workspace) {
  __shared__ float lanes[kThreads];
  const int64_t row = blockIdx.x, head = blockIdx.y, dim = args.head_dim;
  const int thread = threadIdx.x;
  float* out = args.out + (row * args.heads + head) * dim;
  if (!valid_row(args, cells, num_slots, row)) {
    for (int64_t d = thread; d < dim; d += kThreads) out[d] = float_from_bits(0x7fc00000u);
    return;
  }
  float* scores = workspace + (row * args.heads + head) * block_floats;
  float* chains = scores + most_entries;
  const int64_t slot = (args.slots[row] * args.heads + head) * args.slot_entries;
  const float* q = args.q + row * args.row_stride + head * dim;
  const int64_t entries = cells.entries(row);

  // Eight lanes for each key, one for each chain; all threads take as many turns.
  for (int64_t begin = 0; begin < entries; begin += kThreads / 8) {
    const int64_t rank = begin + thread / 8;
    const int64_t entry = cells.entry(row, rank < entries ? rank : entries - 1);
    float chain = 0.0f;
    for (int64_t d = thread % 8; d < dim; d += 8) {
      chain = fused(q[d], load_entry(args.k_cache, args.bfloat16, (slot + entry) * dim + d), chain);
    }
    for (int width = 4; width > 0; width /= 2) {
      chain += __shfl_down_sync(0xffffffffu, chain, width, 8);
    }
    if (thread % 8 == 0 && rank < entries) scores[rank] = chain * scale;
  }
  __syncthreads();
  float largest = scores[0];
  for (int64_t i = thread; i < entries; i += kThreads) {
    largest = scores[i] > largest ? scores[i] : largest;
  }
  lanes[thread] = largest;
  __syncthreads();
  for (int t = 0; t < kThreads; ++t) largest = lanes[t] > largest ? lanes[t] : largest;
  for (int64_t i = thread; i < entries; i += kThreads) {
    scores[i] = exp_of_negative(scores[i] - largest);
  }
  __syncthreads();
  if (thread < 32) {
    float chain = 0.0f;
    for (int64_t i = thread; i < entries; i += 32) chain += scores[i];
    chain = tree_sum(chain);
    if (thread == 0) lanes[0] = chain;
  }
  const int64_t segments = (entries + kValueSegment - 1) / kValueSegment;
  for (int64_t i = thread; i < segments * dim; i += kThreads) {
    const int64_t segment = static_cast<uint32_t>(i) / static_cast<uint32_t>(dim);
    const int64_t d = i - segment * dim, begin = segment * kValueSegment;
    const int64_t end = begin + kValueSegment < entries ? begin + kValueSegment : entries;
    float chain = 0.0f;
    for (int64_t rank = begin; rank < end; ++rank) {
      const int64_t at = (slot + cells.entry(row, rank)) * dim + d;
      chain = fused(scores[rank], load_entry(args.v_cache, args.bfloat16, at), chain);
    }
    chains[i] = chain;
  }
  __syncthreads();
  for (int64_t d = thread; d < dim; d += kThreads) {
    float sum = chains[d];
    for (int64_t s = 1; s < segments; ++s) sum += chains[s * dim + d];
    out[d] = sum / lanes[0];
  }
}

int64_t block_floats(int64_t head_dim, int64_t entries) {
  return entries + (entries + kValueSegment - 1) / kValueSegment * head_dim;
}

template <class Cells>
cudaError_t attention(const CacheAttentionArgs& args, const Cells& cells, int64_t num_slots,
                      int64_t entries, float* workspace, cudaStream_t stream) {
  constexpr int64_t kMost = 0x7fffffff;
  if (args.slot_entries > kMost || block_floats(args.head_dim, entries) > kMost) {
    return cudaErrorInvalidValue;
  }
  const float scale = 1.0f / sqrtf(static_cast<float>(args.head_dim));
  const cudaError_t error =
      launch(append_kernel<Cells>, args.rows, args.heads, kThreads, stream, args, cells, num_slots);
  if (error != cudaSuccess) return error;
  return launch(attend_kernel<Cells>, args.rows, args.heads, kThreads, stream, args, cells,
                num_slots, scale, block_floats(args.head_dim, entries), entries, workspace);
}

__global__ void __launch_bounds__(kThreads)
    rotate_kernel(float* qkv, int64_t heads, int64_t head_dim, const float* cos, const float* sin) {
  const int64_t row = blockIdx.x, head = blockIdx.y, half = head_dim / 2;
  float* first = qkv + (row * 3 * heads + head) * head_dim;
  for (int64_t d = threadIdx.x; d < half; d += kThreads) {
    const float a = first[d], b = first[d + half];
    const float c = cos[row * half + d], s = sin[row * half + d];
    first[d] = fused(a, c, -(b * s));
    first[d + half] = fused(b, c, a * s);
  }
}

}  // namespace

int64_t attention_floats(int64_t rows, int64_t heads, int64_t head_dim, int64_t max_entries) {
  return rows * heads * block_floats(head_dim, max_entries);
}

int64_t max_entries(const GridCells& cells) {
  const int64_t left = cells.left < cells.width ? cells.left : cells.width - 1;
  const int64_t right = cells.right < cells.width ? cells.right : cells.width - 1;
  const int64_t across = left + right + 1 < cells.width ? left + right + 1 : cells.width;
  return cells.up * across + left + 1;
}

cudaError_t window_attention(const CacheAttentionArgs& args, const WindowCells& cells,
                             int64_t num_slots, float* workspace, cudaStream_t stream) {
  return attention(args, Window{cells, args.slot_entries}, num_slots, args.slot_entries, workspace,
                   stream);
}

cudaError_t grid_attention(const CacheAttentionArgs& args, const GridCells& cells,
                           int64_t num_slots, float* workspace, cudaStream_t stream) {
  return attention(args, Grid{cells}, num_slots, max_entries(cells), workspace, stream);
}

cudaError_t rotate_heads(float* qkv, int64_t rows, int64_t heads, int64_t head_dim,
                         const float* cos, const float* sin, cudaStream_t stream) {
  return launch(rotate_kernel, rows, 2 * heads, kThreads, stream, qkv, heads, head_dim, cos, sin);
}

}  // namespace cuda
}  // namespace vqgan_fast
