// The backward pass of soft_assign: logits are computed anew. One block for each 32 rows of the
// side that owns the result, and for each 256 columns (128 in fp64) of it.
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

// What a row or a column has in u and in the gradient by a logit.
template <class T>
struct SoftTerms {
  T add, excess, term, entropy, anchor;

  __device__ SoftTerms(const SoftSide& side, const double* code_terms, int64_t i)
      : add(static_cast<T>(side.add == nullptr ? code_terms[i] : side.add[i])),
        excess(number_or_zero<T>(side.excess, i)),
        term(number_or_zero<T>(side.term, i)),
        entropy(number_or_zero<T>(side.entropy, i)),
        anchor(number_or_zero<T>(side.anchor, i)) {}
};

// `of_weights`: the gradient of the weights, which sums probabilities; else that of the rows and of
// the bias, which sum gradients of logits.
template <class T, bool of_weights>
__device__ void gradient(const SoftGradientArgs& args) {
  __shared__ SoftTile<T> tile;
  const SoftAssignProblem& problem = args.problem;
  if (soft_wide(problem, args.frame) != is_wide<T>) return;
  const SoftSide& own = args.own;
  const SoftSide& other = args.other;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kSoftRows;
  const int64_t own_row = first_row + warp * kSoftWarpRows;
  const int64_t first_element = static_cast<int64_t>(blockIdx.y) * kSoftChunks<T> * 32;
  const float* centre = centre_for<T>(args.frame.centre);
  const double* code_terms = code_terms_for<T>(problem, args.frame);
  const auto rows_of = [&](const SoftSide& side) {
    return SoftOperand{side.rows, side.count, side.centred ? centre : nullptr};
  };
  const auto weights_of = [&](const SoftSide& side) {
    return SoftOperand{side.weights, side.count, centre_for<T>(side.weights_centre)};
  };
  const SoftOperand own_rows = rows_of(own), other_rows = rows_of(other);
  const SoftOperand summed =
      of_weights ? SoftOperand{other.weights, other.count, nullptr} : other_rows;
  const int64_t summed_dim = of_weights ? problem.value_dim : problem.dim;
  const bool weighted = own.weights.data != nullptr && !of_weights;
  const bool sum_rows = of_weights || args.grad_rows.data != nullptr;
  const double scale = (problem.squared ? 2.0 : 1.0) / problem.temperature;
  const T noise_scale = static_cast<T>(1.0 / problem.temperature);
  const uint64_t seed = problem.noisy ? static_cast<uint64_t>(*args.seed) : 0;

  // Of the row that the lane keeps them for.
  const int64_t kept = own_row + lane % kSoftWarpRows;
  const SoftTerms<T> row_terms(own, code_terms, kept < own.count ? kept : own.count - 1);
  double totals[kSoftWarpRows] = {};
  T sums[kSoftChunks<T>][kSoftWarpRows] = {};
  for (int64_t first = 0; first < other.count; first += kSoftColumns) {
    const int64_t column = first + lane;
    const bool there = column < other.count;
    multiply_tile(tile, own_rows, first_row, other_rows, first, problem.dim, tile.lines);
    if (weighted) {
      multiply_tile(tile, weights_of(own), first_row, weights_of(other), first, problem.value_dim,
                    tile.values);
    }
    const SoftTerms<T> column_terms(other, code_terms, there ? column : 0);
#pragma unroll 1
    for (int r = 0; r < kSoftWarpRows; ++r) {
      T& line = tile.lines[warp][lane][r];
      const auto of_row = [&](T number) { return __shfl_sync(kAllLanes, number, r); };
      // What is a code's first: u is the same bits in every pass.
      const T row_add = of_row(row_terms.add);
      T u = fma(line, static_cast<T>(scale), args.own_latents ? column_terms.add : row_add) +
            (args.own_latents ? row_add : column_terms.add);
      if (problem.noisy) {
        // Selected by arithmetic: a branch would double the loop.
        const int64_t other_way = args.own_latents ? 0 : column - (own_row + r);
        u = fma(gumbel_noise<T>(seed, own_row + r + other_way, column - other_way), noise_scale, u);
      }
      if (u < T(kLeastLog)) u = T(kLeastLog);  // 0 times it is 0
      T p = exp(u - (of_row(row_terms.excess) + column_terms.excess));
      const T entropy = of_row(row_terms.entropy) + column_terms.entropy;
      T term = of_row(row_terms.term) + column_terms.term;
      if (!of_weights) {
        // The first difference is exact, as one of the two is 0.
        if (weighted) {
          term += tile.values[warp][lane][r] - (of_row(row_terms.anchor) + column_terms.anchor);
        }
        p *= fma(-entropy, u, term);
      }
      line = there ? p : T(0);
    }
    if (!of_weights) {
#pragma unroll
      for (int r = 0; r < kSoftWarpRows; ++r) totals[r] += tile.lines[warp][lane][r];
    }
    if (sum_rows) add_product(tile, summed, first, first_element, summed_dim, sums);
  }

  // To the lane that keeps the row's numbers.
  double kept_total = 0.0;
#pragma unroll
  for (int r = 0; r < kSoftWarpRows; ++r) {
    const double total = warp_sum(totals[r]);
    if (lane == r) kept_total = total;
  }
  if (sum_rows) lay_down(tile, sums);
#pragma unroll 1
  for (int r = 0; r < kSoftWarpRows; ++r) {
    const int64_t row = own_row + r;
    const double total = __shfl_sync(kAllLanes, kept_total, r);
    if (row >= own.count) continue;
    const int width = sum_rows ? soft_width<T>(summed_dim, first_element) : 0;
#pragma unroll 1
    for (int d = lane; d < width; d += 32) {
      const int64_t element = first_element + d;
      double sum = tile.summed[warp * kSoftWarpRows + r][d];
      if (!of_weights) {
        // Both sides are measured from one centre if `squared`; else the sum lacks the other's.
        const double from = other_rows.centre == nullptr ? 0.0 : other_rows.centre[element];
        sum += total * (from - (problem.squared ? load_at(own.rows, row, element) : 0.0));
        sum *= scale;
      }
      store_at(of_weights ? args.grad_weights : args.grad_rows, row, element, sum);
    }
    if (!of_weights && args.grad_add.data != nullptr && lane == 0 && blockIdx.y == 0) {
      store_at(args.grad_add, row, 0, total / problem.temperature);
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

}  // namespace

cudaError_t soft_gradient(const SoftGradientArgs& args, cudaStream_t stream) {
  const int64_t blocks = ceil_div(args.own.count, kSoftRows);
  const bool rows = args.grad_rows.data != nullptr;
  if (rows || args.grad_add.data != nullptr) {
    const cudaError_t error = launch_soft(soft_rows_kernel, soft_rows_double_kernel, blocks,
                                          rows ? args.problem.dim : 0, stream, args);
    if (error != cudaSuccess) return error;
  }
  if (args.grad_weights.data == nullptr) return cudaSuccess;
  return launch_soft(soft_weights_kernel, soft_weights_double_kernel, blocks,
                     args.problem.value_dim, stream, args);
}

}  // namespace cuda
}  // namespace vqgan_fast
