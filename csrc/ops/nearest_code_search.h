// What nearest_code and vector_quantize share on CUDA: the arguments of the search.
#pragma once

#include <cstdlib>
#include <optional>
#include <string>

#include "kernels/cuda/nearest_code.cuh"
#include "ops/cuda_launch.h"

namespace vqgan_fast::ops {

// VQGAN_FAST_CUDA_SEARCH, for tests and measurements: every way finds the same codes. A way that a
// call cannot go (wgmma on another GPU, anything but exact for fp64) is not taken.
inline std::optional<SearchWay> search_way_from_environment() {
  const char* const asked = std::getenv("VQGAN_FAST_CUDA_SEARCH");
  const std::string name = asked == nullptr ? "auto" : asked;
  if (name == "auto" || name.empty()) return std::nullopt;
  if (name == "exact") return SearchWay::kExact;
  if (name == "direct") return SearchWay::kDirect;
  if (name == "mma") return SearchWay::kMma;
  if (name == "wgmma") return SearchWay::kWgmma;
  VQGAN_FAST_CHECK(false, "VQGAN_FAST_CUDA_SEARCH must be auto, exact, direct, mma or wgmma, got ",
                   name);
}

// Sizes and types of a search for each head; its pointers are the caller's to set.
inline cuda::NearestCodeArgs search_args(const Tensor& z, const Tensor& codebook,
                                         const SearchSizes& sizes, bool exact) {
  cuda::NearestCodeArgs args;
  args.z.dtype = dtype_of(z.scalar_type());
  args.codebook.dtype = dtype_of(codebook.scalar_type());
  args.num_rows = sizes.num_rows;
  args.num_codes = sizes.num_codes;
  args.dim = sizes.dim;
  args.exact = exact;
  args.way = search_way_from_environment();
  return args;
}

inline Tensor search_scratch(const Tensor& like, const cuda::NearestCodeArgs& args,
                             const char* what) {
  size_t bytes = 0;
  check_cuda(cuda::nearest_code_workspace_bytes(args, &bytes), what);
  return scratch(like, bytes);
}

}  // namespace vqgan_fast::ops
