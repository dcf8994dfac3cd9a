// The forward pass of soft_assign: one block for each 32 rows, and for each 256 columns (128 in
// fp64) of the result. A warp keeps the softmax of its four rows in registers.
#include <cstdint>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/soft_assign.cuh"
#include "kernels/cuda/soft_assign_tile.cuh"
#include "kernels/cuda/tiling.h"

namespace vqgan_fast {
namespace cuda {
namespace {

__device__ double minus_infinity() { return -static_cast<double>(float_of_bits(0x7f800000u)); }

// The largest of the warp's logits, and the lowest code that has it.
template <class T>
__device__ void warp_largest(T* value, int64_t* code) {
  for (int mask = 16; mask > 0; mask /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, *value, mask);
    const int64_t other_code = __shfl_xor_sync(kAllLanes, *code, mask);
    if (other > *value || (other == *value && other_code < *code)) {
      *value = other;
      *code = other_code;
    }
  }
}

template <class T>
__device__ void forward(const SoftForwardArgs& args) {
  __shared__ SoftTile<T> tile;
  const SoftAssignProblem& problem = args.problem;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kSoftRows;
  const int64_t own_row = first_row + warp * kSoftWarpRows;
  const int64_t first_element = static_cast<int64_t>(blockIdx.y) * kSoftChunks<T> * 32;
  const bool expected = args.expected.data != nullptr;
  const T scale = static_cast<T>((problem.squared ? 2.0 : 1.0) / problem.temperature);
  const T noise_scale = static_cast<T>(1.0 / problem.temperature);
  const uint64_t seed = problem.noisy ? static_cast<uint64_t>(*args.seed) : 0;

  double largest[kSoftWarpRows], sum[kSoftWarpRows], weighted[kSoftWarpRows];
  int64_t index[kSoftWarpRows];
  T sums[kSoftChunks<T>][kSoftWarpRows] = {};
#pragma unroll
  for (int r = 0; r < kSoftWarpRows; ++r) {
    largest[r] = minus_infinity();
    sum[r] = weighted[r] = 0.0;
    index[r] = 0;
  }
  for (int64_t first = 0; first < problem.num_codes; first += kSoftColumns) {
    const int64_t code = first + lane;
    const bool there = code < problem.num_codes;
    T p[kSoftWarpRows];
    multiply_tile(tile, problem.z, first_row, problem.num_rows, problem.codebook, first,
                  problem.num_codes, problem.dim, p);
    const T add = static_cast<T>(there ? args.code_terms[code] : minus_infinity());
#pragma unroll
    for (int r = 0; r < kSoftWarpRows; ++r) {
      T logit = fma(p[r], scale, add);
      if (problem.noisy && there) {
        logit = fma(gumbel_noise<T>(seed, own_row + r, code), noise_scale, logit);
      }
      T tile_largest = logit == logit ? logit : static_cast<T>(minus_infinity());
      int64_t tile_index = code;
      warp_largest(&tile_largest, &tile_index);
      if (tile_largest > largest[r]) {
        const double change = largest[r] - tile_largest;
        const bool first_finite = largest[r] == minus_infinity();
        const double factor = first_finite ? 0.0 : exp(change);
        weighted[r] = first_finite ? 0.0 : factor * (weighted[r] + change * sum[r]);
        sum[r] *= factor;
#pragma unroll
        for (int c = 0; c < kSoftChunks<T>; ++c) sums[c][r] *= static_cast<T>(factor);
        largest[r] = tile_largest;
        index[r] = tile_index;
      }
      // Where every code so far is masked by a bias of minus infinity, any shift will do.
      const T shift = largest[r] == minus_infinity() ? T(0) : static_cast<T>(largest[r]);
      const T x = logit - shift;
      p[r] = exp(x);
      sum[r] += warp_sum(p[r]);
      weighted[r] += warp_sum(p[r] == 0 ? T(0) : p[r] * x);
    }
    if (expected) {
      add_product(tile, p, problem.values, first, problem.num_codes, first_element,
                  problem.value_dim, sums);
    }
  }

#pragma unroll
  for (int r = 0; r < kSoftWarpRows; ++r) {
    const int64_t row = own_row + r;
    if (row >= problem.num_rows) continue;
#pragma unroll
    for (int c = 0; c < kSoftChunks<T>; ++c) {
      const int64_t element = first_element + 32 * c + lane;
      if (!expected || element >= problem.value_dim) continue;
      store_number(args.expected, row, element, static_cast<double>(sums[c][r]) / sum[r]);
    }
    if (lane > 0 || blockIdx.y > 0) continue;
    const double normalizer = largest[r] + log(sum[r]);
    args.normalizer[row] = normalizer;
    if (args.indices != nullptr) args.indices[row] = normalizer == normalizer ? index[r] : 0;
    if (args.entropy.data != nullptr) {
      store_number(args.entropy, row, 0, log(sum[r]) - weighted[r] / sum[r]);
    }
    if (args.log_sum_exp.data != nullptr) {
      double norm2 = 0.0;
      for (int64_t d = 0; problem.squared && d < problem.dim; ++d) {
        const double z = load_as<double>(problem.z, row, d);
        norm2 += z * z;
      }
      store_number(args.log_sum_exp, row, 0, normalizer - norm2 / problem.temperature);
    }
  }
}

// Two blocks on a multiprocessor, but where their 128 registers for a thread would spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
constexpr int kForwardBlocks = 1;
#else
constexpr int kForwardBlocks = 2;
#endif

__global__ void __launch_bounds__(kSoftThreads, kForwardBlocks)
    soft_forward_kernel(SoftForwardArgs args) {
  forward<float>(args);
}

__global__ void __launch_bounds__(kSoftThreads, 1)
    soft_forward_double_kernel(SoftForwardArgs args) {
  forward<double>(args);
}

template <class T>
__device__ void mean(const SoftAssignProblem& problem, const int64_t* seed_at,
                     const double* code_terms, const double* normalizer, const Rows& out) {
  __shared__ SoftTile<T> tile;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first_code = static_cast<int64_t>(blockIdx.x) * kSoftRows;
  const int64_t own_code = first_code + warp * kSoftWarpRows;
  const T scale = static_cast<T>((problem.squared ? 2.0 : 1.0) / problem.temperature);
  const T noise_scale = static_cast<T>(1.0 / problem.temperature);
  const uint64_t seed = problem.noisy ? static_cast<uint64_t>(*seed_at) : 0;
  double sums[kSoftWarpRows] = {};
  for (int64_t first = 0; first < problem.num_rows; first += kSoftColumns) {
    const int64_t row = first + lane;
    const bool there = row < problem.num_rows;
    T products[kSoftWarpRows];
    multiply_tile(tile, problem.codebook, first_code, problem.num_codes, problem.z, first,
                  problem.num_rows, problem.dim, products);
    const T shift = static_cast<T>(there ? -normalizer[row] : minus_infinity());
#pragma unroll
    for (int r = 0; r < kSoftWarpRows; ++r) {
      const int64_t code = own_code + r;
      if (!there || code >= problem.num_codes) continue;
      T x = fma(products[r], scale, shift) + static_cast<T>(code_terms[code]);
      if (problem.noisy) x = fma(gumbel_noise<T>(seed, row, code), noise_scale, x);
      sums[r] += exp(x);
    }
  }
#pragma unroll
  for (int r = 0; r < kSoftWarpRows; ++r) {
    const double sum = warp_sum(sums[r]);
    if (lane == 0 && own_code + r < problem.num_codes) {
      store_number(out, own_code + r, 0, sum / static_cast<double>(problem.num_rows));
    }
  }
}

__global__ void __launch_bounds__(kSoftThreads, 2)
    soft_mean_kernel(SoftAssignProblem problem, const int64_t* seed, const double* code_terms,
                     const double* normalizer, Rows out) {
  mean<float>(problem, seed, code_terms, normalizer, out);
}

__global__ void __launch_bounds__(kSoftThreads, 1)
    soft_mean_double_kernel(SoftAssignProblem problem, const int64_t* seed,
                            const double* code_terms, const double* normalizer, Rows out) {
  mean<double>(problem, seed, code_terms, normalizer, out);
}

// A warp for each code.
__global__ void __launch_bounds__(kSoftThreads)
    soft_code_terms_kernel(SoftAssignProblem problem, double* terms) {
  const int64_t code = static_cast<int64_t>(blockIdx.x) * kSoftWarps + threadIdx.x / 32;
  if (code >= problem.num_codes) return;
  const int lane = threadIdx.x % 32;
  double norm2 = 0.0;
  for (int64_t d = lane; problem.squared && d < problem.dim; d += 32) {
    const double e = load_as<double>(problem.codebook, code, d);
    norm2 += e * e;
  }
  norm2 = warp_sum(norm2);
  if (lane > 0) return;
  const double bias = problem.bias.data == nullptr ? 0.0 : load_number(problem.bias, code);
  terms[code] = (bias - norm2) / problem.temperature;
}

}  // namespace

cudaError_t soft_code_terms(const SoftAssignProblem& problem, double* terms, cudaStream_t stream) {
  return launch(soft_code_terms_kernel, ceil_div(problem.num_codes, kSoftWarps), 1, kSoftThreads,
                stream, problem, terms);
}

cudaError_t soft_forward(const SoftForwardArgs& args, cudaStream_t stream) {
  const bool expected = args.expected.data != nullptr;
  const int64_t parts =
      expected ? ceil_div(args.problem.value_dim, soft_block_columns(args.problem.fp64)) : 1;
  return launch(args.problem.fp64 ? soft_forward_double_kernel : soft_forward_kernel,
                ceil_div(args.problem.num_rows, kSoftRows), parts, kSoftThreads, stream, args);
}

cudaError_t soft_mean(const SoftAssignProblem& problem, const int64_t* seed,
                      const double* code_terms, const double* normalizer, const Rows& out,
                      cudaStream_t stream) {
  return launch(problem.fp64 ? soft_mean_double_kernel : soft_mean_kernel,
                ceil_div(problem.num_codes, kSoftRows), 1, kSoftThreads, stream, problem, seed,
                code_terms, normalizer, out);
}

}  // namespace cuda
}  // namespace vqgan_fast
