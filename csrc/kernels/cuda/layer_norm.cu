// One warp for each row, a lane for each chain.
#include <cstdint>

#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/warp_sums.cuh"
#include "kernels/decode_math.h"

namespace vqgan_fast {
namespace cuda {
namespace {

__global__ void __launch_bounds__(32) norm_kernel(LayerNormArgs args) {
  __shared__ float shared;
  const int lane = threadIdx.x;
  const float count = static_cast<float>(args.dim);
  const float* x = args.x + static_cast<int64_t>(blockIdx.x) * args.dim;
  float* y = args.y + static_cast<int64_t>(blockIdx.x) * args.dim;
  float chain = 0.0f;
  for (int64_t i = lane; i < args.dim; i += 32) chain += x[i];
  chain = tree_sum(chain);
  if (lane == 0) shared = chain / count;
  __syncthreads();
  const float mean = shared;
  float squares = 0.0f;
  for (int64_t i = lane; i < args.dim; i += 32) {
    const float difference = x[i] - mean;
    squares = fused(difference, difference, squares);
  }
  squares = tree_sum(squares);
  __syncthreads();
  if (lane == 0) shared = 1.0f / sqrtf(squares / count + args.eps);
  __syncthreads();
  const float scale = shared;
  for (int64_t i = lane; i < args.dim; i += 32) {
    y[i] = fused((x[i] - mean) * scale, args.weight[i], args.bias[i]);
  }
}

}  // namespace

cudaError_t layer_norm(const LayerNormArgs& args, cudaStream_t stream) {
  return launch(norm_kernel, args.rows, 1, 32, stream, args);
}

}  // namespace cuda
}  // namespace vqgan_fast
