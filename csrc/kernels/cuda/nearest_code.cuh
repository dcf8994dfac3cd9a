// nearest_code on CUDA: the same indices and distances as kernels/cpu/nearest_code.h, to the bit.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <optional>

#include "kernels/cpu/rows.h"
#include "kernels/cuda/nearest_code_plan.h"

namespace vqgan_fast {
namespace cuda {

struct NearestCodeArgs {
  Rows z;                                  // num_rows x dim
  Rows codebook;                           // num_codes x dim
  int64_t num_rows = 0;                    // at least 1
  int64_t num_codes = 0;                   // at least 1
  int64_t dim = 0;                         // at least 1
  bool exact = true;                       // false: no proof that the index is the definition's
  int64_t* indices = nullptr;              // num_rows
  void* distances = nullptr;               // num_rows
  DType distance_dtype = DType::kFloat32;  // kFloat32 or kFloat64
  void* workspace = nullptr;               // nearest_code_workspace_bytes(), 256-byte aligned
  std::optional<SearchWay> way;            // taken where it is possible
  int64_t chunk_rows = kChunkRows;         // searched at a time, which bounds the scratch memory
};

// Scratch memory for a call with these sizes and types: the images of the codes and of 2^18 rows at
// most, and for each of those rows up to some hundred bytes. Independent of N K.
cudaError_t nearest_code_workspace_bytes(const NearestCodeArgs& args, size_t* bytes);

// The way that a call with these sizes and types goes on the current device.
cudaError_t nearest_code_way(const NearestCodeArgs& args, SearchWay* way);

// On the current device. Never waits for it.
cudaError_t nearest_code(const NearestCodeArgs& args, cudaStream_t stream);

}  // namespace cuda
}  // namespace vqgan_fast
