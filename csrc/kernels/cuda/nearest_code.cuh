// nearest_code on CUDA: the same indices and distances as kernels/cpu/nearest_code.h, to the bit.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/rows.h"

namespace vqgan_fast {
namespace cuda {

struct NearestCodeArgs {
  Rows z;                                  // num_rows x dim
  Rows codebook;                           // num_codes x dim
  int64_t num_rows = 0;                    // at least 1
  int64_t num_codes = 0;                   // at least 1
  int64_t dim = 0;                         // at least 1
  int64_t* indices = nullptr;              // num_rows
  void* distances = nullptr;               // num_rows
  DType distance_dtype = DType::kFloat32;  // kFloat32 or kFloat64
  void* workspace = nullptr;               // nearest_code_workspace_bytes(), 16-byte aligned
};

// 16 bytes for each row and split: independent of num_codes but for few rows, where it is bounded
// by the number of multiprocessors.
cudaError_t nearest_code_workspace_bytes(int64_t num_rows, int64_t num_codes, size_t* bytes);

// Every distance is the fp64 sum itself, so "fast" and "exact" are one here.
cudaError_t nearest_code(const NearestCodeArgs& args, cudaStream_t stream);

}  // namespace cuda
}  // namespace vqgan_fast
