// The launches of all layers, one behind the other in one stream.
#include <cstdint>

#include "kernels/cuda/decode.cuh"
#include "kernels/decode_layers_steps.h"

namespace vqgan_fast {
namespace cuda {
namespace {

cudaError_t attend_cells(const CacheAttentionArgs& args, const WindowCells& cells,
                         int64_t num_slots, float* workspace, cudaStream_t stream) {
  return window_attention(args, cells, num_slots, workspace, stream);
}
cudaError_t attend_cells(const CacheAttentionArgs& args, const GridCells& cells, int64_t num_slots,
                         float* workspace, cudaStream_t stream) {
  return grid_attention(args, cells, num_slots, workspace, stream);
}

// Launches nothing more once a launch has failed.
template <class Cells>
struct CudaSteps {
  const DecodeLayersArgs& args;
  const Cells& cells;
  const Rotation* rotation;  // or null
  float* workspace;          // of the attention
  cudaStream_t stream;
  cudaError_t error = cudaSuccess;

  void norm(const LayerNormArgs& norm) {
    if (error == cudaSuccess) error = layer_norm(norm, stream);
  }
  void linear(const PackedLinearArgs& linear) {
    if (error == cudaSuccess) error = packed_linear(linear, stream);
  }
  void rotate(float* qkv) {
    if (error != cudaSuccess || rotation == nullptr) return;
    error = rotate_heads(qkv, args.rows, args.heads, args.head_dim, rotation->cos, rotation->sin,
                         stream);
  }
  void attend(const CacheAttentionArgs& attention) {
    if (error != cudaSuccess) return;
    error = attend_cells(attention, cells, args.slots_in_cache, workspace, stream);
  }
};

template <class Cells>
cudaError_t layers(const DecodeLayersArgs& args, const Cells& cells, const Rotation* rotation,
                   float* workspace, cudaStream_t stream) {
  float* of_attention = workspace + decode_layers_floats(args);
  CudaSteps<Cells> steps = {args, cells, rotation, of_attention, stream};
  run_layers(args, workspace, &steps);
  return steps.error;
}

}  // namespace

int64_t layers_floats(const DecodeLayersArgs& args, int64_t max_entries) {
  return decode_layers_floats(args) +
         attention_floats(args.rows, args.heads, args.head_dim, max_entries);
}

cudaError_t decode_layers(const DecodeLayersArgs& args, const WindowCells& cells, float* workspace,
                          cudaStream_t stream) {
  return layers(args, cells, nullptr, workspace, stream);
}

cudaError_t decode_grid_layers(const DecodeLayersArgs& args, const GridCells& cells,
                               const Rotation& rotation, float* workspace, cudaStream_t stream) {
  return layers(args, cells, &rotation, workspace, stream);
}

}  // namespace cuda
}  // namespace vqgan_fast
