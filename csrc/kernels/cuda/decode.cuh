// The ops of a decode step: every launcher takes the arguments of its CPU kernel, whose bits it
// gives, with pointers to the device's memory. There is at least one row.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cpu/cache_attention.h"
#include "kernels/cpu/decode_layers.h"
#include "kernels/cpu/layer_norm.h"
#include "kernels/cpu/packed_linear.h"
#include "kernels/cpu/sample_logits.h"

namespace vqgan_fast {
namespace cuda {

cudaError_t packed_linear(const PackedLinearArgs& args, cudaStream_t stream);
cudaError_t layer_norm(const LayerNormArgs& args, cudaStream_t stream);

// The most entries that a row attends: slot_entries of a window, and of a grid so many.
int64_t max_entries(const GridCells& cells);

// `workspace` has attention_floats of room. A row whose slot is none of the cache's num_slots, or
// whose cell lies outside it, writes nothing and comes out as NaN.
int64_t attention_floats(int64_t rows, int64_t heads, int64_t head_dim, int64_t max_entries);
cudaError_t window_attention(const CacheAttentionArgs& args, const WindowCells& cells,
                             int64_t num_slots, float* workspace, cudaStream_t stream);
cudaError_t grid_attention(const CacheAttentionArgs& args, const GridCells& cells,
                           int64_t num_slots, float* workspace, cudaStream_t stream);

// Queries and keys of qkv (rows, 3, heads, head_dim), as decode_grid_layers rotates them.
cudaError_t rotate_heads(float* qkv, int64_t rows, int64_t heads, int64_t head_dim,
                         const float* cos, const float* sin, cudaStream_t stream);

// `workspace` has layers_floats of room.
int64_t layers_floats(const DecodeLayersArgs& args, int64_t max_entries);
cudaError_t decode_layers(const DecodeLayersArgs& args, const WindowCells& cells, float* workspace,
                          cudaStream_t stream);
cudaError_t decode_grid_layers(const DecodeLayersArgs& args, const GridCells& cells,
                               const Rotation& rotation, float* workspace, cudaStream_t stream);

// `workspace` has rows * num_codes of room.
cudaError_t sample_logits(const SampleLogitsArgs& args, double* workspace, cudaStream_t stream);

}  // namespace cuda
}  // namespace vqgan_fast
