// The forward pass of soft_assign: one block for each 32 rows, and for each 256 columns (128 in
// fp64) of the result. Lane r of a warp keeps the softmax of its row r.
#include <cstdint>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/soft_assign.cuh"
#include "kernels/cuda/soft_assign_tile.cuh"
#include "kernels/cuda/tiling.h"

namespace vqgan_fast {
namespace cuda {
namespace {

// The largest of the warp's numbers, of which NaN is none.
template <class T>
__device__ T warp_largest(T value) {
  if (value != value) value = static_cast<T>(minus_infinity());
  for (int mask = 16; mask > 0; mask /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, value, mask);
    if (other > value) value = other;
  }
  return value;
}

template <class T>
__device__ void forward(const SoftForwardArgs& args) {
  __shared__ SoftTile<T> tile;
  const SoftAssignProblem& problem = args.problem;
  if (soft_wide(problem, args.frame) != is_wide<T>) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kSoftRows;
  const int64_t own_row = first_row + warp * kSoftWarpRows;
  const int64_t first_element = static_cast<int64_t>(blockIdx.y) * kSoftChunks<T> * 32;
  const bool expected = args.expected.data != nullptr;
  const float* centre = centre_for<T>(args.frame.centre);
  const double* code_terms = code_terms_for<T>(problem, args.frame);
  const SoftOperand latents{problem.z, problem.num_rows, problem.squared ? centre : nullptr};
  const SoftOperand codes{problem.codebook, problem.num_codes, centre};
  const SoftOperand values{problem.values, problem.num_codes, nullptr};
  const T scale = static_cast<T>((problem.squared ? 2.0 : 1.0) / problem.temperature);
  const T noise_scale = static_cast<T>(1.0 / problem.temperature);
  const uint64_t seed = problem.noisy ? static_cast<uint64_t>(*args.seed) : 0;

  double largest = minus_infinity(), sum = 0.0, weighted = 0.0;
  int64_t index = 0;
  T sums[kSoftChunks<T>][kSoftWarpRows] = {};
  for (int64_t first = 0; first < problem.num_codes; first += kSoftColumns) {
    const int64_t code = first + lane;
    const bool there = code < problem.num_codes;
    multiply_tile(tile, latents, first_row, codes, first, problem.dim, tile.lines);
    const T add = static_cast<T>(there ? code_terms[code] : minus_infinity());
    T factor = 1;  // by which the lane's row shrinks
#pragma unroll 1
    for (int r = 0; r < kSoftWarpRows; ++r) {
      T& line = tile.lines[warp][lane][r];
      T logit = fma(line, scale, add);
      if (problem.noisy && there) {
        logit = fma(gumbel_noise<T>(seed, own_row + r, code), noise_scale, logit);
      }
      const double before = __shfl_sync(kAllLanes, largest, r);
      const T tile_largest = warp_largest(logit);
      const unsigned winners = __ballot_sync(kAllLanes, logit == tile_largest);
      const bool grown = tile_largest > before;
      if (grown && lane == r) {
        const double change = before - tile_largest;
        const bool first_finite = before == minus_infinity();
        const double shrunk = first_finite ? 0.0 : exp(change);
        weighted = first_finite ? 0.0 : shrunk * (weighted + change * sum);
        sum *= shrunk;
        factor = static_cast<T>(shrunk);
        largest = tile_largest;
        index = first + __ffs(static_cast<int>(winners)) - 1;
      }
      const double now = grown ? static_cast<double>(tile_largest) : before;
      // Where every code so far is masked by a bias of minus infinity, any shift will do.
      const T x = logit - (now == minus_infinity() ? T(0) : static_cast<T>(now));
      const T p = exp(x);
      line = p;
      const T tile_sum = warp_sum(p), tile_weighted = warp_sum(p == 0 ? T(0) : p * x);
      if (lane == r) {
        sum += tile_sum;
        weighted += tile_weighted;
      }
    }
    if (!expected) continue;
    if (__ballot_sync(kAllLanes, factor != 1) != 0) {
#pragma unroll
      for (int r = 0; r < kSoftWarpRows; ++r) {
        const T shrunk = __shfl_sync(kAllLanes, factor, r);
#pragma unroll
        for (int c = 0; c < kSoftChunks<T>; ++c) sums[c][r] *= shrunk;
      }
    }
    add_product(tile, values, first, first_element, problem.value_dim, sums);
  }

  if (expected) lay_down(tile, sums);
#pragma unroll 1
  for (int r = 0; expected && r < kSoftWarpRows; ++r) {
    const double total = __shfl_sync(kAllLanes, sum, r);
    if (own_row + r >= problem.num_rows) continue;
    const int width = soft_width<T>(problem.value_dim, first_element);
#pragma unroll 1
    for (int d = lane; d < width; d += 32) {
      const double of_row = tile.summed[warp * kSoftWarpRows + r][d];
      store_at(args.expected, own_row + r, first_element + d, of_row / total);
    }
  }
  if (blockIdx.y > 0) return;
  double constant = 0.0;  // of the lane's row
#pragma unroll 1
  for (int r = 0; r < kSoftWarpRows && own_row + r < problem.num_rows; ++r) {
    const double of_row = row_constant(problem, centre, own_row + r);
    if (lane == r) constant = of_row;
  }
  const int64_t row = own_row + lane;
  if (lane >= kSoftWarpRows || row >= problem.num_rows) return;
  const double log_sum_exp = largest + log(sum) + constant, entropy = log(sum) - weighted / sum;
  if (log_sum_exp != log_sum_exp) index = 0;
  double* of_latent = args.statistics + kSoftStatistics * row;
  of_latent[0] = log_sum_exp;
  of_latent[1] = entropy;
  of_latent[2] = static_cast<double>(index);
  if (args.indices != nullptr) args.indices[row] = index;
  if (args.entropy.data != nullptr) store_at(args.entropy, row, 0, entropy);
  if (args.log_sum_exp.data != nullptr) store_at(args.log_sum_exp, row, 0, log_sum_exp);
}

__global__ void __launch_bounds__(kSoftThreads, 2) soft_forward_kernel(SoftForwardArgs args) {
  forward<float>(args);
}

__global__ void __launch_bounds__(kSoftThreads, 1)
    soft_forward_double_kernel(SoftForwardArgs args) {
  forward<double>(args);
}

template <class T>
__device__ void mean(const SoftMeanArgs& args) {
  __shared__ SoftTile<T> tile;
  const SoftAssignProblem& problem = args.problem;
  if (soft_wide(problem, args.frame) != is_wide<T>) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first_code = static_cast<int64_t>(blockIdx.x) * kSoftRows;
  const int64_t own_code = first_code + warp * kSoftWarpRows;
  const float* centre = centre_for<T>(args.frame.centre);
  const double* code_terms = code_terms_for<T>(problem, args.frame);
  const SoftOperand latents{problem.z, problem.num_rows, problem.squared ? centre : nullptr};
  const SoftOperand codes{problem.codebook, problem.num_codes, centre};
  const T scale = static_cast<T>((problem.squared ? 2.0 : 1.0) / problem.temperature);
  const T noise_scale = static_cast<T>(1.0 / problem.temperature);
  const uint64_t seed = problem.noisy ? static_cast<uint64_t>(*args.seed) : 0;
  double sums[kSoftWarpRows] = {};
  for (int64_t first = 0; first < problem.num_rows; first += kSoftColumns) {
    const int64_t row = first + lane;
    const bool there = row < problem.num_rows;
    multiply_tile(tile, codes, first_code, latents, first, problem.dim, tile.lines);
    const T add = static_cast<T>(there ? args.latent_add[row] : minus_infinity());
#pragma unroll 1
    for (int r = 0; r < kSoftWarpRows; ++r) {
      T& line = tile.lines[warp][lane][r];
      const int64_t code = own_code + r;
      if (!there || code >= problem.num_codes) {
        line = 0;
        continue;
      }
      T x = fma(line, scale, add) + static_cast<T>(code_terms[code]);
      if (problem.noisy) x = fma(gumbel_noise<T>(seed, row, code), noise_scale, x);
      line = exp(x);
    }
#pragma unroll
    for (int r = 0; r < kSoftWarpRows; ++r) sums[r] += tile.lines[warp][lane][r];
  }
#pragma unroll
  for (int r = 0; r < kSoftWarpRows; ++r) {
    const double sum = warp_sum(sums[r]);
    if (lane == 0 && own_code + r < problem.num_codes) {
      store_at(args.out, own_code + r, 0, sum / static_cast<double>(problem.num_rows));
    }
  }
}

__global__ void __launch_bounds__(kSoftThreads, 2) soft_mean_kernel(SoftMeanArgs args) {
  mean<float>(args);
}

__global__ void __launch_bounds__(kSoftThreads, 1) soft_mean_double_kernel(SoftMeanArgs args) {
  mean<double>(args);
}

}  // namespace

cudaError_t soft_forward(const SoftForwardArgs& args, cudaStream_t stream) {
  const int64_t blocks = ceil_div(args.problem.num_rows, kSoftRows);
  const int64_t width = args.expected.data != nullptr ? args.problem.value_dim : 0;
  return launch_soft(soft_forward_kernel, soft_forward_double_kernel, blocks, width, stream, args);
}

cudaError_t soft_mean(const SoftMeanArgs& args, cudaStream_t stream) {
  return launch_soft(soft_mean_kernel, soft_mean_double_kernel,
                     ceil_div(args.problem.num_codes, kSoftRows), 0, stream, args);
}

}  // namespace cuda
}  // namespace vqgan_fast
