// The backward pass of soft_assign: logits are computed anew. One block for each 32 rows of the
// side that owns the result, and for each 256 columns of it.
#include <cstdint>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/soft_assign.cuh"
#include "kernels/cuda/soft_assign_tile.cuh"
#include "kernels/cuda/tiling.h"

namespace vqgan_fast {
namespace cuda {
namespace {

constexpr double kLeastLog = -746.0;  // of which the exponential is 0, in either type

template <class T>
__device__ T number_or_zero(const double* numbers, int64_t i) {
  return numbers == nullptr ? T(0) : static_cast<T>(numbers[i]);
}

// `of_weights`: the gradient of the weights, which sums probabilities; else that of the rows and of
// the bias, which sum gradients of logits.
template <class T, bool of_weights>
__device__ void gradient(const SoftGradientArgs& args) {
  __shared__ SoftTile<T> tile;
  const SoftAssignProblem& problem = args.problem;
  const SoftSide& own = args.own;
  const SoftSide& other = args.other;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kSoftRows;
  const int64_t own_row = first_row + warp * kSoftWarpRows;
  const int64_t first_element = static_cast<int64_t>(blockIdx.y) * kSoftChunks<T> * 32;
  const bool weighted = own.weights.data != nullptr;
  const Rows& summed = of_weights ? other.weights : other.rows;
  const int64_t summed_dim = of_weights ? problem.value_dim : problem.dim;
  const bool sum_rows = of_weights || args.grad_rows.data != nullptr;
  const double scale = (problem.squared ? 2.0 : 1.0) / problem.temperature;
  const T noise_scale = static_cast<T>(1.0 / problem.temperature);
  const uint64_t seed = problem.noisy ? static_cast<uint64_t>(*args.seed) : 0;
  const double own_sign = args.own_latents ? -1.0 : 1.0;

  T add[kSoftWarpRows], term[kSoftWarpRows], entropy[kSoftWarpRows];
  double totals[kSoftWarpRows] = {};
  T sums[kSoftChunks<T>][kSoftWarpRows] = {};
#pragma unroll
  for (int r = 0; r < kSoftWarpRows; ++r) {
    const int64_t row = own_row + r < own.count ? own_row + r : own.count - 1;
    add[r] = static_cast<T>(own_sign * own.add[row]);
    term[r] = number_or_zero<T>(own.term, row);
    entropy[r] = number_or_zero<T>(own.entropy, row);
  }
  for (int64_t first = 0; first < other.count; first += kSoftColumns) {
    const int64_t column = first + lane;
    const bool there = column < other.count;
    T p[kSoftWarpRows], values[kSoftWarpRows] = {};
    multiply_tile(tile, own.rows, first_row, own.count, other.rows, first, other.count, problem.dim,
                  p);
    if (weighted && !of_weights) {
      multiply_tile(tile, own.weights, first_row, own.count, other.weights, first, other.count,
                    problem.value_dim, values);
    }
    const int64_t place = there ? column : 0;
    const T column_add = static_cast<T>(-own_sign * other.add[place]);
    const T column_term = number_or_zero<T>(other.term, place);
    const T column_entropy = number_or_zero<T>(other.entropy, place);
#pragma unroll
    for (int r = 0; r < kSoftWarpRows; ++r) {
      T x = fma(p[r], static_cast<T>(scale), column_add) + add[r];
      if (problem.noisy) {
        const int64_t row = args.own_latents ? own_row + r : column;
        const int64_t code = args.own_latents ? column : own_row + r;
        x = fma(gumbel_noise<T>(seed, row, code), noise_scale, x);
      }
      if (x < T(kLeastLog)) x = T(kLeastLog);  // 0 times it is 0
      p[r] = there ? exp(x) : T(0);
      if (!of_weights) {
        const T t = term[r] + column_term + values[r];
        p[r] *= fma(-(entropy[r] + column_entropy), x, t);
        if (!there) p[r] = 0;
        totals[r] += p[r];
      }
    }
    if (sum_rows) {
      add_product(tile, p, summed, first, other.count, first_element, summed_dim, sums);
    }
  }

#pragma unroll
  for (int r = 0; r < kSoftWarpRows; ++r) {
    const int64_t row = own_row + r;
    const double total = warp_sum(totals[r]);
    if (row >= own.count) continue;
#pragma unroll
    for (int c = 0; c < kSoftChunks<T>; ++c) {
      const int64_t element = first_element + 32 * c + lane;
      if (!sum_rows || element >= summed_dim) continue;
      const double sum = static_cast<double>(sums[c][r]);
      if (of_weights) {
        store_number(args.grad_weights, row, element, sum);
        continue;
      }
      double pull = 0.0;
      if (problem.squared) pull = total * load_as<double>(own.rows, row, element);
      store_number(args.grad_rows, row, element, scale * (sum - pull));
    }
    if (!of_weights && args.grad_add.data != nullptr && lane == 0 && blockIdx.y == 0) {
      store_number(args.grad_add, row, 0, total / problem.temperature);
    }
  }
}

__global__ void __launch_bounds__(kSoftThreads, 2) soft_rows_kernel(SoftGradientArgs args) {
  gradient<float, false>(args);
}

__global__ void __launch_bounds__(kSoftThreads, 1) soft_rows_double_kernel(SoftGradientArgs args) {
  gradient<double, false>(args);
}

__global__ void __launch_bounds__(kSoftThreads, 2) soft_weights_kernel(SoftGradientArgs args) {
  gradient<float, true>(args);
}

__global__ void __launch_bounds__(kSoftThreads, 1)
    soft_weights_double_kernel(SoftGradientArgs args) {
  gradient<double, true>(args);
}

// A warp for each row.
__global__ void __launch_bounds__(kSoftThreads) soft_row_terms_kernel(SoftRowTermsArgs args) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kSoftWarps + threadIdx.x / 32;
  if (row >= args.num_rows) return;
  const int lane = threadIdx.x % 32;
  double sum = 0.0;
  for (int64_t d = lane; args.grad_expected.data != nullptr && d < args.value_dim; d += 32) {
    sum += load_as<double>(args.grad_expected, row, d) * load_as<double>(args.expected, row, d);
  }
  double term = -warp_sum(sum);
  if (lane > 0) return;
  if (args.grad_log_sum_exp.data != nullptr) term += load_number(args.grad_log_sum_exp, row);
  if (args.grad_entropy.data != nullptr) {
    term -= load_number(args.grad_entropy, row) * load_number(args.entropy, row);
  }
  if (args.code_mean != nullptr) term -= args.code_mean[row];
  args.terms[row] = term;
}

__global__ void __launch_bounds__(kSoftThreads)
    soft_scaled_kernel(Rows values, int64_t count, double factor, double* numbers) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kSoftThreads + threadIdx.x;
  if (i < count) numbers[i] = values.data == nullptr ? 0.0 : factor * load_number(values, i);
}

}  // namespace

cudaError_t soft_row_terms(const SoftRowTermsArgs& args, cudaStream_t stream) {
  return launch(soft_row_terms_kernel, ceil_div(args.num_rows, kSoftWarps), 1, kSoftThreads, stream,
                args);
}

cudaError_t soft_scaled(const Rows& values, int64_t count, double factor, double* numbers,
                        cudaStream_t stream) {
  return launch(soft_scaled_kernel, ceil_div(count, kSoftThreads), 1, kSoftThreads, stream, values,
                count, factor, numbers);
}

cudaError_t soft_gradient(const SoftGradientArgs& args, cudaStream_t stream) {
  const bool fp64 = args.problem.fp64;
  const int64_t blocks = ceil_div(args.own.count, kSoftRows);
  const int64_t columns = soft_block_columns(fp64);
  const bool rows = args.grad_rows.data != nullptr;
  if (rows || args.grad_add.data != nullptr) {
    const int64_t parts = rows ? ceil_div(args.problem.dim, columns) : 1;
    const cudaError_t error = launch(fp64 ? soft_rows_double_kernel : soft_rows_kernel, blocks,
                                     parts, kSoftThreads, stream, args);
    if (error != cudaSuccess) return error;
  }
  if (args.grad_weights.data == nullptr) return cudaSuccess;
  return launch(fp64 ? soft_weights_double_kernel : soft_weights_kernel, blocks,
                ceil_div(args.problem.value_dim, columns), kSoftThreads, stream, args);
}

}  // namespace cuda
}  // namespace vqgan_fast
