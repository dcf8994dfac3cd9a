// What the images of codes are made with: the centre of the codes, then their largest element from
// there. Maxima do not depend on the order in which blocks come.
#include <cstdint>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/nearest_code_centred.cuh"
#include "kernels/cuda/nearest_code_stages.cuh"

namespace vqgan_fast {
namespace cuda {
namespace {

constexpr int kCentreSample = 256;  // codes, of which the centre is the mean
constexpr int kCentreColumns = 32;  // of a block
constexpr int kCentreLanes = kPackThreads / kCentreColumns;

// centre[d] = the mean of column d over a sample of codes, where codes lie to one side of the
// origin by more than they spread. Else 0: then centring rounds nothing.
__global__ void __launch_bounds__(kPackThreads)
    centre_kernel(Rows codebook, int64_t num_codes, int64_t dim, float* centre,
                  CodebookFacts* facts) {
  __shared__ float sums[kCentreLanes][kCentreColumns];
  __shared__ float squares[kCentreLanes][kCentreColumns];
  __shared__ int counts[kCentreLanes][kCentreColumns];
  const int x = threadIdx.x % kCentreColumns;
  const int lane = threadIdx.x / kCentreColumns;
  const int64_t d = static_cast<int64_t>(blockIdx.x) * kCentreColumns + x;
  if (blockIdx.x == 0 && threadIdx.x == 0) *facts = CodebookFacts{};
  const int64_t sample = num_codes < kCentreSample ? num_codes : kCentreSample;
  float sum = 0.0f;
  float square = 0.0f;
  int count = 0;
  const int64_t step = num_codes / sample;
#pragma unroll 4
  for (int64_t i = lane; i < sample; i += kCentreLanes) {
    const int64_t offset = row_offset(codebook, i * step);
    const float e =
        d < dim ? load_float(codebook.data, codebook.dtype, offset + d * codebook.element_stride)
                : 0.0f;
    const float kept = finite(e) ? e : 0.0f;  // no branch: many loads are to be on their way
    sum += kept;
    square = fmaf(kept, kept, square);
    count += finite(e) ? 1 : 0;
  }
  sums[lane][x] = sum;
  squares[lane][x] = square;
  counts[lane][x] = count;
  __syncthreads();
  if (lane != 0 || d >= dim) return;
  for (int i = 1; i < kCentreLanes; ++i) {
    sum += sums[i][x];
    square += squares[i][x];
    count += counts[i][x];
  }
  const float mean = sum / static_cast<float>(count > 0 ? count : 1);
  const bool aside = mean * mean > 0.25f * (square / static_cast<float>(count > 0 ? count : 1));
  centre[d] = aside && finite(mean) ? mean : 0.0f;
}

// facts->largest, over the finite elements of all codes.
__global__ void __launch_bounds__(kPackThreads)
    largest_kernel(Rows codebook, bool aligned, int64_t num_codes, int64_t dim, const float* centre,
                   CodebookFacts* facts) {
  const int units = static_cast<int>(ceil_div(dim, kUnitColumns));
  const int64_t step = static_cast<int64_t>(gridDim.x) * kPackThreads;
  float largest = 0.0f;
  int told = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kPackThreads + threadIdx.x;
       i < num_codes * units; i += step) {
    const bool adjoin = codebook.element_stride == 1;
    const int64_t code = adjoin ? i / units : i % num_codes;
    const int unit = static_cast<int>(adjoin ? i % units : i / num_codes);
    float t[8];
    const int here =
        load_centred(codebook, row_offset(codebook, code), aligned, unit, dim, centre, t);
    if (here == 2) told = 1;
#pragma unroll
    for (int j = 0; j < 8; ++j) largest = fmaxf(largest, fabsf(t[j]));
  }
  const unsigned most = warp_max(bits_of_float(largest));
  const unsigned overflow = warp_max(static_cast<unsigned>(told));
  if (threadIdx.x % kWarp != 0) return;
  if (most > 0) atomicMax(&facts->largest, most);
  if (overflow > 0) atomicMax(&facts->overflow, overflow);
}

}  // namespace

cudaError_t find_facts(const SearchArgs& args, cudaStream_t stream) {
  const cudaError_t error =
      launch(centre_kernel, ceil_div(args.dim, kCentreColumns), 1, kPackThreads, stream,
             args.codebook, args.num_codes, args.dim, args.centre, args.facts);
  if (error != cudaSuccess) return error;
  const int64_t units = args.num_codes * ceil_div(args.dim, kUnitColumns);
  const int64_t blocks = ceil_div(units, kPackThreads);
  return launch(largest_kernel, blocks < 4 * args.blocks ? blocks : 4 * args.blocks, 1,
                kPackThreads, stream, args.codebook, eights_allowed(args.codebook), args.num_codes,
                args.dim, args.centre, args.facts);
}

}  // namespace cuda
}  // namespace vqgan_fast
