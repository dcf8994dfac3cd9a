#include <torch/csrc/stable/library.h>

#include <tuple>

#include "kernels/cuda/nearest_code.cuh"
#include "ops/cuda_launch.h"
#include "ops/nearest_code_search.h"

namespace vqgan_fast::ops {
namespace {

std::tuple<Tensor, Tensor> nearest_code_cuda(const Tensor& z, const Tensor& codebook, bool exact) {
  const SearchSizes sizes = check_search(z, codebook);
  const ScalarType distance_type = accumulation_type(z, codebook);
  const Tensor indices = torch::stable::new_empty(z, index_shape(z), ScalarType::Long);
  const Tensor distances = torch::stable::new_empty(z, index_shape(z), distance_type);
  if (indices.numel() == 0) return {indices, distances};

  const CudaContext context(z);
  Tensor holder;
  cuda::NearestCodeArgs args = search_args(z, codebook, sizes, exact);
  args.distance_dtype = dtype_of(distance_type);
  const Tensor workspace = search_scratch(z, args, "nearest_code");
  args.workspace = workspace.data_ptr();
  for (int64_t h = 0; h < sizes.num_heads; ++h) {
    const int64_t first = h * sizes.num_rows;
    args.z = codebook.dim() == 2 ? rows_of(z, &holder) : head_rows(z, h);
    args.codebook = head_rows(codebook, h);
    args.indices = static_cast<int64_t*>(indices.data_ptr()) + first;
    args.distances = static_cast<char*>(distances.data_ptr()) +
                     first * static_cast<int64_t>(distances.element_size());
    check_cuda(cuda::nearest_code(args, context.stream()), "nearest_code");
  }
  return {indices, distances};
}

// The number of the SearchWay that nearest_code goes.
int64_t nearest_code_way_cuda(const Tensor& z, const Tensor& codebook) {
  const SearchSizes sizes = check_search(z, codebook);
  const CudaContext context(z);
  SearchWay way{};
  check_cuda(cuda::nearest_code_way(search_args(z, codebook, sizes, true), &way), "nearest_code");
  return static_cast<int64_t>(way);
}

}  // namespace
}  // namespace vqgan_fast::ops

// No op of the library: for the tests, which otherwise would not see that a way was not gone.
STABLE_TORCH_LIBRARY_FRAGMENT(vqgan_fast, m) {
  m.def("_nearest_code_way(Tensor z, Tensor codebook) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CUDA, m) {
  m.impl("_nearest_code_way", TORCH_BOX(&vqgan_fast::ops::nearest_code_way_cuda));
  m.impl("nearest_code", TORCH_BOX(&vqgan_fast::ops::nearest_code_cuda));
}
