// The tree of kernels/cpu/chain_sums.h over the lanes of a warp.
#pragma once

#include <cuda_runtime_api.h>

namespace vqgan_fast {

// Lane 0 gets the sum of all lanes' chains.
__device__ inline float tree_sum(float chain) {
  for (int width = 16; width > 0; width /= 2) {
    chain += __shfl_down_sync(0xffffffffu, chain, width, 32);
  }
  return chain;
}

}  // namespace vqgan_fast
