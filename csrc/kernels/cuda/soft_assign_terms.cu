// What soft_assign needs of every latent and of every code by itself: the frame of the logits, and
// the parts of a gradient that do not depend on both.
#include <cstdint>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/soft_assign.cuh"
#include "kernels/cuda/soft_assign_tile.cuh"
#include "kernels/cuda/tiling.h"

namespace vqgan_fast {
namespace cuda {
namespace {

constexpr int64_t kOffsetParts = 128;  // of the rows, each summed by one block

int64_t offset_parts(int64_t count) { return count < kOffsetParts ? count : kOffsetParts; }

// The sum over the block's threads, for thread 0; `shared` has kSoftWarps numbers.
__device__ double block_sum(double value, double* shared) {
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0.0;
  for (int w = 0; threadIdx.x == 0 && w < kSoftWarps; ++w) sum += shared[w];
  return sum;
}

// sums[part][d] for d < dim, and the sum of squares behind them.
__global__ void __launch_bounds__(kSoftThreads)
    soft_offset_sums_kernel(Rows rows, int64_t count, int64_t dim, double* sums) {
  __shared__ double shared[kSoftWarps];
  const int64_t parts = gridDim.x, part = blockIdx.x;
  const int64_t begin = part * count / parts, end = (part + 1) * count / parts;
  double squares = 0.0;
  for (int64_t d = threadIdx.x; d < dim; d += kSoftThreads) {
    double sum = 0.0;
#pragma unroll 1
    for (int64_t row = begin; row < end; ++row) {
      const double x = load_at(rows, row, d);
      sum += x;
      squares += x * x;
    }
    sums[part * (dim + 1) + d] = sum;
  }
  squares = block_sum(squares, shared);
  if (threadIdx.x == 0) sums[part * (dim + 1) + dim] = squares;
}

// One block. `largest`, if given, is cleared for what comes next.
__global__ void __launch_bounds__(kSoftThreads)
    soft_offset_kernel(int64_t count, int64_t dim, int64_t parts, const double* sums, float* centre,
                       unsigned* largest) {
  __shared__ double shared[kSoftWarps];
  __shared__ bool aside;
  double norm2 = 0.0;
  for (int64_t d = threadIdx.x; d < dim; d += kSoftThreads) {
    double sum = 0.0;
    for (int64_t part = 0; part < parts; ++part) sum += sums[part * (dim + 1) + d];
    const float mean = static_cast<float>(sum / static_cast<double>(count));
    centre[d] = mean;
    norm2 += static_cast<double>(mean) * mean;
  }
  norm2 = block_sum(norm2, shared);
  if (threadIdx.x == 0) {
    double squares = 0.0;
    for (int64_t part = 0; part < parts; ++part) squares += sums[part * (dim + 1) + dim];
    // Not of numbers that are not finite.
    aside = norm2 > kLeastOffset * squares / static_cast<double>(count) && norm2 < 1e300;
    for (int i = 0; largest != nullptr && i < 3; ++i) largest[i] = 0;
  }
  __syncthreads();
  for (int64_t d = threadIdx.x; !aside && d < dim; d += kSoftThreads) centre[d] = 0.0f;
}

// Counts towards the largest magnitude of finite numbers. One that leaves fp32 counts as infinity:
// no kernel of fp32 may take its logits.
__device__ void keep_largest(unsigned* largest, double value) {
  if (value - value != 0.0) return;
  atomicMax(largest, bits_of_float(static_cast<float>(value)) & 0x7fffffffu);
}

// A warp for each code or latent.
__global__ void __launch_bounds__(kSoftThreads)
    soft_frame_kernel(SoftAssignProblem problem, const float* centre, double* terms,
                      unsigned* largest) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kSoftWarps + threadIdx.x / 32;
  const int64_t num_codes = problem.num_codes;
  if (item >= num_codes + problem.num_rows) return;
  const bool is_code = item < num_codes;
  const int lane = threadIdx.x % 32;
  double from_centre = 0.0, from_zero = 0.0;
  for (int64_t d = lane; d < problem.dim; d += 32) {
    const double x =
        is_code ? load_at(problem.codebook, item, d) : load_at(problem.z, item - num_codes, d);
    const double y = is_code || problem.squared ? x - centre[d] : x;
    from_centre += y * y;
    from_zero += x * x;
  }
  from_centre = warp_sum(from_centre);
  from_zero = warp_sum(from_zero);
  if (lane > 0) return;
  keep_largest(largest + (is_code ? 0 : 1), from_centre);
  if (!is_code) return;
  const double bias = problem.bias.data == nullptr ? 0.0 : load_at(problem.bias, item, 0);
  const double term = (bias - (problem.squared ? from_centre : 0.0)) / problem.temperature;
  keep_largest(largest + 2, term);
  terms[item] = term;
  terms[num_codes + item] = (bias - (problem.squared ? from_zero : 0.0)) / problem.temperature;
}

// The product of two rows as multiply_tile computes it, with a warp. Every lane has it.
template <class T>
__device__ T product_of_rows(const SoftOperand& own, int64_t row, const SoftOperand& other,
                             int64_t column, int64_t dim) {
  const int lane = threadIdx.x % 32;
  const int64_t own_row = soft_row(own, row), other_row = soft_row(other, column);
  T product = 0;
#pragma unroll 1
  for (int64_t start = 0; start < dim; start += 32) {
    const int64_t d = start + lane;
    const SoftBits<T> x_bits = load_soft_bits<T>(own, own_row, d, dim);
    const SoftBits<T> y_bits = load_soft_bits<T>(other, other_row, d, dim);
    const T x = soft_element<T>(own, x_bits, own_row, d, dim);
    const T y = soft_element<T>(other, y_bits, other_row, d, dim);
#pragma unroll 1
    for (int i = 0; i < 32; ++i) {
      product = fma(__shfl_sync(kAllLanes, x, i), __shfl_sync(kAllLanes, y, i), product);
    }
  }
  return product;
}

// Of grad_expected and the value of the code with the largest logit, a warp for each latent.
template <class T>
__device__ void set_anchor(const SoftLatentArgs& args) {
  const SoftAssignProblem& problem = args.problem;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kSoftWarps + threadIdx.x / 32;
  if (soft_wide(problem, args.frame) != is_wide<T> || row >= problem.num_rows) return;
  const auto code = static_cast<int64_t>(args.statistics[kSoftStatistics * row + 2]);
  const SoftOperand gradient{args.grad_expected, problem.num_rows, nullptr};
  const SoftOperand values{problem.values, problem.num_codes, centre_for<T>(args.value_centre)};
  const T anchor = product_of_rows<T>(gradient, row, values, code, problem.value_dim);
  if (threadIdx.x % 32 == 0) args.anchor[row] = anchor;
}

__global__ void __launch_bounds__(kSoftThreads) soft_anchors_kernel(SoftLatentArgs args) {
  set_anchor<float>(args);
}

__global__ void __launch_bounds__(kSoftThreads) soft_anchors_double_kernel(SoftLatentArgs args) {
  set_anchor<double>(args);
}

__device__ double lost_in_fp32(double x) { return x - static_cast<double>(static_cast<float>(x)); }

// A warp for each latent.
__global__ void __launch_bounds__(kSoftThreads) soft_latents_kernel(SoftLatentArgs args) {
  const SoftAssignProblem& problem = args.problem;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kSoftWarps + threadIdx.x / 32;
  if (row >= problem.num_rows) return;
  const int lane = threadIdx.x % 32;
  const bool wide = soft_wide(problem, args.frame);
  const double constant = row_constant(problem, wide ? nullptr : args.frame.centre, row);
  const double* of_latent = args.statistics + kSoftStatistics * row;
  const auto code = static_cast<int64_t>(of_latent[2]);
  if (lane > 0) return;
  const bool entropies = args.grad_entropy.data != nullptr;
  const double excess = entropies ? of_latent[1] : 0.0;
  args.add[row] = constant - of_latent[0] + excess;
  if (args.term == nullptr) return;
  args.excess[row] = excess;
  args.entropy[row] = entropies ? load_at(args.grad_entropy, row, 0) : 0.0;
  if (args.grad_expected.data == nullptr) args.anchor[row] = 0.0;
  args.term[row] = -args.code_terms[code];
}

// A thread for each latent.
__global__ void __launch_bounds__(kSoftThreads)
    soft_balance_kernel(SoftLatentArgs args, const double* left) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kSoftThreads + threadIdx.x;
  if (row >= args.problem.num_rows) return;
  const bool wide = soft_wide(args.problem, args.frame);
  const double lost = wide ? 0.0 : lost_in_fp32(args.add[row]);
  double term = args.term[row] - args.entropy[row] * lost;
  if (left != nullptr) {
    // Of probabilities whose sum is exp(shift - lost).
    const double shift = wide ? 0.0 : lost_in_fp32(args.excess[row]);
    term -= args.problem.temperature * exp(lost - shift) * left[row];
  }
  if (args.grad_log_sum_exp.data != nullptr) term += load_at(args.grad_log_sum_exp, row, 0);
  args.term[row] = term;
}

// One block.
__global__ void __launch_bounds__(kSoftThreads)
    soft_code_gradients_kernel(Rows grad_mean, int64_t num_codes, int64_t num_rows, double* terms) {
  __shared__ double shared[kSoftWarps];
  __shared__ double mean;
  double sum = 0.0;
  for (int64_t k = threadIdx.x; grad_mean.data != nullptr && k < num_codes; k += kSoftThreads) {
    sum += load_at(grad_mean, k, 0);
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) mean = sum / static_cast<double>(num_codes);
  __syncthreads();
  for (int64_t k = threadIdx.x; k < num_codes; k += kSoftThreads) {
    const double gradient = grad_mean.data == nullptr ? 0.0 : load_at(grad_mean, k, 0) - mean;
    terms[k] = gradient / static_cast<double>(num_rows);
  }
}

cudaError_t offset(const Rows& rows, int64_t count, int64_t dim, double* memory, float* centre,
                   unsigned* largest, cudaStream_t stream) {
  const int64_t parts = offset_parts(count);
  const cudaError_t error =
      launch(soft_offset_sums_kernel, parts, 1, kSoftThreads, stream, rows, count, dim, memory);
  if (error != cudaSuccess) return error;
  return launch(soft_offset_kernel, 1, 1, kSoftThreads, stream, count, dim, parts, memory, centre,
                largest);
}

}  // namespace

int64_t soft_offset_doubles(int64_t count, int64_t dim) { return offset_parts(count) * (dim + 1); }

cudaError_t soft_offset(const Rows& rows, int64_t count, int64_t dim, double* memory, float* centre,
                        cudaStream_t stream) {
  return offset(rows, count, dim, memory, centre, nullptr, stream);
}

// The terms, the memory of the offset, the centre, and the three maxima.
int64_t soft_frame_doubles(const SoftAssignProblem& problem) {
  return 2 * problem.num_codes + soft_offset_doubles(problem.num_codes, problem.dim) +
         ceil_div(problem.dim, 2) + 2;
}

cudaError_t soft_frame(const SoftAssignProblem& problem, double* memory, SoftFrame* frame,
                       cudaStream_t stream) {
  double* sums = memory + 2 * problem.num_codes;
  double* behind = sums + soft_offset_doubles(problem.num_codes, problem.dim);
  float* centre = reinterpret_cast<float*>(behind);
  auto* largest = reinterpret_cast<unsigned*>(behind + ceil_div(problem.dim, 2));
  *frame = SoftFrame{centre, memory, largest};
  const cudaError_t error =
      offset(problem.codebook, problem.num_codes, problem.dim, sums, centre, largest, stream);
  if (error != cudaSuccess) return error;
  return launch(soft_frame_kernel, ceil_div(problem.num_codes + problem.num_rows, kSoftWarps), 1,
                kSoftThreads, stream, problem, centre, memory, largest);
}

cudaError_t soft_latents(const SoftLatentArgs& args, cudaStream_t stream) {
  if (args.problem.num_rows == 0) return cudaSuccess;
  const int64_t blocks = ceil_div(args.problem.num_rows, kSoftWarps);
  if (args.grad_expected.data != nullptr) {
    for (const auto kernel : {soft_anchors_kernel, soft_anchors_double_kernel}) {
      const cudaError_t error = launch(kernel, blocks, 1, kSoftThreads, stream, args);
      if (error != cudaSuccess) return error;
    }
  }
  return launch(soft_latents_kernel, blocks, 1, kSoftThreads, stream, args);
}

cudaError_t soft_balance(const SoftLatentArgs& args, const double* left, cudaStream_t stream) {
  return launch(soft_balance_kernel, ceil_div(args.problem.num_rows, kSoftThreads), 1, kSoftThreads,
                stream, args, left);
}

cudaError_t soft_code_gradients(const SoftAssignProblem& problem, const Rows& grad_mean,
                                double* terms, cudaStream_t stream) {
  return launch(soft_code_gradients_kernel, 1, 1, kSoftThreads, stream, grad_mean,
                problem.num_codes, problem.num_rows, terms);
}

}  // namespace cuda
}  // namespace vqgan_fast
