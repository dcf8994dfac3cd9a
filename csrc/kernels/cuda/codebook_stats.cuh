// codebook_stats on CUDA: how many rows of z have each code, and their sum.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cpu/rows.h"
#include "kernels/cuda/code_order.cuh"

namespace vqgan_fast {
namespace cuda {

struct CodebookStatsArgs {
  Rows z;          // num_rows x dim
  CodeOrder rows;  // from order_by_code
  int64_t num_rows = 0;
  int64_t num_codes = 0;               // at least 1
  int64_t dim = 0;                     // at least 1
  int64_t* counts = nullptr;           // num_codes
  void* sums = nullptr;                // num_codes x dim
  DType sums_dtype = DType::kFloat32;  // kFloat32 or kFloat64
};

// Sums are added in fp64, rows in ascending order, as on the CPU. An index outside the codebook
// belongs to no code: every sum is then NaN, because an error cannot be raised without a wait.
cudaError_t codebook_stats(const CodebookStatsArgs& args, cudaStream_t stream);

}  // namespace cuda
}  // namespace vqgan_fast
