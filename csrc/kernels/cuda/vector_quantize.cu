// Element-wise kernels over rows x columns, and sums in a fixed order. __dmul_rn and __dadd_rn keep
// the compiler from fusing what the CPU rounds twice: gradients are the same on both.
#include <cstdint>

#include "kernels/cuda/code_sums.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tiling.h"
#include "kernels/cuda/vector_quantize.cuh"

namespace vqgan_fast {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kElementBlocks = 1 << 20;  // more elements than these blocks have threads: a loop
constexpr int64_t kSumTile = 4096;           // distances that one block adds

// Element i of a matrix, counted along whichever of rows and columns lies side by side in `rows`.
struct Place {
  int64_t row;
  int64_t column;
};

__device__ Place place_of(int64_t i, const Rows& rows, int64_t num_rows, int64_t dim) {
  const bool along_rows = rows.element_stride == 1;
  const int64_t length = along_rows ? dim : num_rows;
  int64_t line, rest;
  if ((i | length) >> 32 == 0) {  // a division of 64 bits takes four times as long
    line = static_cast<uint32_t>(i) / static_cast<uint32_t>(length);
    rest = static_cast<uint32_t>(i) - static_cast<uint32_t>(line) * static_cast<uint32_t>(length);
  } else {
    line = i / length;
    rest = i - line * length;
  }
  return along_rows ? Place{line, rest} : Place{rest, line};
}

int64_t element_blocks(int64_t elements) {
  const int64_t blocks = ceil_div(elements, kThreads);
  return blocks < kElementBlocks ? blocks : kElementBlocks;
}

__global__ void __launch_bounds__(kThreads) straight_through_kernel(StraightThroughArgs args) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < args.num_rows * args.dim; i += step) {
    const Place at = place_of(i, args.z, args.num_rows, args.dim);
    const double z = load_at(args.z, at.row, at.column);
    const double e = load_at(args.codebook, args.indices[at.row], at.column);
    const double difference = round_to(args.promoted, e - z);
    store_at(args.z_q, at.row, at.column, round_to(args.promoted, z + difference));
  }
}

__global__ void __launch_bounds__(kThreads) grad_z_kernel(GradZArgs args) {
  const double scale =
      args.per_element * load_element(args.grad_commitment, args.grad_commitment_dtype, 0);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < args.num_rows * args.dim; i += step) {
    const Place at = place_of(i, args.z, args.num_rows, args.dim);
    const int64_t code = args.indices[at.row];
    double gradient = float_of_bits(0x7fc00000u);
    if (code >= 0 && code < args.num_codes) {
      const double z = load_at(args.z, at.row, at.column);
      gradient = __dmul_rn(scale, z - load_at(args.codebook, code, at.column));
      if (args.grad_z_q.data != nullptr) {
        gradient = __dadd_rn(gradient, load_at(args.grad_z_q, at.row, at.column));
      }
    }
    store_at(args.grad_z, at.row, at.column, gradient);
  }
}

template <class T>
__global__ void __launch_bounds__(kSumThreads)
    grad_codebook_kernel(GradCodebookArgs args, bool fours) {
  const SumPlace at;
  if (at.code >= args.num_codes) return;
  double sums[kLaneColumns];
  code_sum<T>(args.z, args.rows, at, args.dim, fours, sums);
  const int64_t count = args.rows.starts[at.code + 1] - args.rows.starts[at.code];
  const double scale =
      args.per_element * load_element(args.grad_codebook_loss, args.grad_codebook_loss_dtype, 0);
#pragma unroll
  for (int c = 0; c < kLaneColumns; ++c) {
    const int64_t column = at.column + c;
    if (column >= args.dim) break;
    double gradient = 0.0;  // of a code without rows, whatever it holds
    if (count > 0) {
      const double e = load_at(args.codebook, at.code, column);
      gradient = scale * __dadd_rn(__dmul_rn(static_cast<double>(count), e), -sums[c]);
    }
    store_at(args.grad_codebook, at.code, column, gradient);
  }
}

// The sum of values[begin .. end) in the block's first thread.
__device__ double block_sum(const double* values, int64_t begin, int64_t end) {
  __shared__ double sums[kThreads];
  const int thread = threadIdx.x;
  double sum = 0.0;
  for (int64_t i = begin + thread; i < end; i += kThreads) sum += values[i];
  sums[thread] = sum;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (thread < half) sums[thread] += sums[thread + half];
    __syncthreads();
  }
  return sums[0];
}

__global__ void __launch_bounds__(kThreads)
    sum_kernel(const double* values, int64_t count, double* sums) {
  const int64_t begin = blockIdx.x * kSumTile;
  const double sum = block_sum(values, begin, begin + kSumTile < count ? begin + kSumTile : count);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    loss_kernel(const double* sums, int64_t count, double divisor, void* commitment_loss,
                void* codebook_loss, DType loss_dtype) {
  const double loss = block_sum(sums, 0, count) / divisor;
  if (threadIdx.x != 0) return;
  store_element(commitment_loss, loss_dtype, 0, loss);
  store_element(codebook_loss, loss_dtype, 0, loss);
}

}  // namespace

cudaError_t straight_through(const StraightThroughArgs& args, cudaStream_t stream) {
  return launch(straight_through_kernel, element_blocks(args.num_rows * args.dim), 1, kThreads,
                stream, args);
}

int64_t mean_workspace_doubles(int64_t count) { return ceil_div(count, kSumTile); }

cudaError_t mean_distance(const double* distances, int64_t count, double divisor, double* workspace,
                          void* commitment_loss, void* codebook_loss, DType loss_dtype,
                          cudaStream_t stream) {
  const int64_t tiles = mean_workspace_doubles(count);
  const cudaError_t error =
      launch(sum_kernel, tiles, 1, kThreads, stream, distances, count, workspace);
  if (error != cudaSuccess) return error;
  return launch(loss_kernel, 1, 1, kThreads, stream, workspace, tiles, divisor, commitment_loss,
                codebook_loss, loss_dtype);
}

cudaError_t grad_z(const GradZArgs& args, cudaStream_t stream) {
  return launch(grad_z_kernel, element_blocks(args.num_rows * args.dim), 1, kThreads, stream, args);
}

cudaError_t grad_codebook(const GradCodebookArgs& args, cudaStream_t stream) {
  constexpr void (*kKernels[])(GradCodebookArgs, bool) = {
      grad_codebook_kernel<float>, grad_codebook_kernel<uint16_t>, grad_codebook_kernel<double>};
  return launch_code_sums(kKernels, args.z, args.num_codes, args.dim, stream, args);
}

}  // namespace cuda
}  // namespace vqgan_fast
