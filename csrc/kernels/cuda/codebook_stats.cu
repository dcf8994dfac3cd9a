// One block for each code and 32 columns.
#include <cstdint>

#include "kernels/cuda/code_sums.cuh"
#include "kernels/cuda/codebook_stats.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tiling.h"

namespace vqgan_fast {
namespace cuda {
namespace {

__global__ void __launch_bounds__(kSumThreads)
    stats_kernel(Rows z, CodeOrder rows, int64_t num_rows, int64_t num_codes, int64_t dim,
                 int64_t* counts, void* sums, DType sums_dtype) {
  const int64_t code = blockIdx.x;
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kSumColumns + threadIdx.x % kSumColumns;
  double sum = code_sum(z, rows, code, column, dim);
  if (threadIdx.x >= kSumColumns || column >= dim) return;
  if (rows.starts[num_codes] < num_rows) sum = float_of_bits(0x7fc00000u);
  store_element(sums, sums_dtype, code * dim + column, sum);
  if (column == 0) counts[code] = rows.starts[code + 1] - rows.starts[code];
}

}  // namespace

cudaError_t codebook_stats(const CodebookStatsArgs& args, cudaStream_t stream) {
  return launch(stats_kernel, args.num_codes, ceil_div(args.dim, kSumColumns), kSumThreads, stream,
                args.z, args.rows, args.num_rows, args.num_codes, args.dim, args.counts, args.sums,
                args.sums_dtype);
}

}  // namespace cuda
}  // namespace vqgan_fast
