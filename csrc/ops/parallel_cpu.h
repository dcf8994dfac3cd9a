// torch's threads for the CPU kernels.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

#include "kernels/cpu/parallel.h"

namespace vqgan_fast::ops {

// Threads of torch's own pool: torch.set_num_threads decides.
inline Parallel torch_parallel() {
  Parallel parallel;
  parallel.num_threads = static_cast<int>(torch::stable::get_num_threads());
  parallel.run = [](int64_t begin, int64_t end, int64_t grain, const RangeBody& body) {
    torch::stable::parallel_for(begin, end, grain, body);
  };
  return parallel;
}

}  // namespace vqgan_fast::ops
