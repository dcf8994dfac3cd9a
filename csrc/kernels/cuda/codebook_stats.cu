// A warp for each code and 128 columns.
#include <cstdint>

#include "kernels/cuda/code_sums.cuh"
#include "kernels/cuda/codebook_stats.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/tiling.h"

namespace vqgan_fast {
namespace cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kSumThreads) stats_kernel(CodebookStatsArgs args, bool fours) {
  const SumPlace at;
  if (at.code >= args.num_codes) return;
  double sums[kLaneColumns];
  code_sum<T>(args.z, args.rows, at, args.dim, fours, sums);
  const bool outside = args.rows.starts[args.num_codes] < args.num_rows;
#pragma unroll
  for (int c = 0; c < kLaneColumns; ++c) {
    if (at.column + c >= args.dim) break;
    store_element(args.sums, args.sums_dtype, at.code * args.dim + at.column + c,
                  outside ? float_of_bits(0x7fc00000u) : sums[c]);
  }
  if (at.column == 0) {
    args.counts[at.code] = args.rows.starts[at.code + 1] - args.rows.starts[at.code];
  }
}

}  // namespace

cudaError_t codebook_stats(const CodebookStatsArgs& args, cudaStream_t stream) {
  constexpr void (*kKernels[])(CodebookStatsArgs, bool) = {
      stats_kernel<float>, stats_kernel<uint16_t>, stats_kernel<double>};
  return launch_code_sums(kKernels, args.z, args.num_codes, args.dim, stream, args);
}

}  // namespace cuda
}  // namespace vqgan_fast
