// One block for each row. What stays of a ranking is a cut: the last rank and code that stay.
#include <cstdint>

#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/draw_rule.h"
#include "kernels/philox.h"

namespace vqgan_fast {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
static_assert(kThreads == kDigits, "a thread clears the sums of one digit");
using Mass = unsigned long long;

struct Cut {
  uint64_t rank;
  int code;
};

__device__ inline bool stays(const Cut& cut, double score, int code) {
  const uint64_t rank = rank_of(score);
  return rank < cut.rank || (rank == cut.rank && code <= cut.code);
}

// What all threads share lies in shared memory, not in registers: those would spill around the
// calls that divide in fp64.
struct Scratch {
  double values[kThreads];
  int codes[kThreads];
  Mass sums[kDigits];
  unsigned mass_low[kDigits];  // in halves: shared memory adds 32 bits by itself, 64 by trying
  unsigned mass_high[kDigits];
  unsigned counts[kDigits];
  Mass partial[kThreads / kWarp];
  Mass before;
  uint64_t digits;
  int64_t ties;
  unsigned chosen;
  Cut cut;
  int highest;
  double largest;
  double total;
};

// The first of the largest of relative; `count` where all are -infinity or NaN. Threads read what
// they wrote themselves.
__device__ inline int first_of_largest(Scratch* scratch, const double* relative, int count) {
  double value = double_from_bits(0xfff0000000000000u);
  int code = count;
  for (int v = threadIdx.x; v < count; v += kThreads) {
    if (relative[v] > value) {
      value = relative[v];
      code = v;
    }
  }
  scratch->values[threadIdx.x] = value;
  scratch->codes[threadIdx.x] = code;
  __syncthreads();
  for (int width = kThreads / 2; width > 0; width /= 2) {
    const int i = threadIdx.x;
    if (i < width) {
      const double other = scratch->values[i + width];
      const int other_code = scratch->codes[i + width];
      if (other > scratch->values[i] ||
          (other == scratch->values[i] && other_code < scratch->codes[i])) {
        scratch->values[i] = other;
        scratch->codes[i] = other_code;
      }
    }
    __syncthreads();
  }
  const int best = scratch->codes[0];
  __syncthreads();
  return best;
}

// The sum over the lanes of a warp, in its first; integers, so in any order.
__device__ inline Mass warp_sum(Mass value) {
  for (int width = kWarp / 2; width > 0; width /= 2) {
    value += __shfl_down_sync(kAllLanes, value, width, kWarp);
  }
  return value;
}

// The sum over all threads.
__device__ inline Mass block_sum(Scratch* scratch, Mass value) {
  value = warp_sum(value);
  if (threadIdx.x % kWarp == 0) scratch->partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  Mass sum = 0;
  for (int warp = 0; warp < kThreads / kWarp; ++warp) sum += scratch->partial[warp];
  __syncthreads();
  return sum;
}

__device__ inline void add_to_digit(Scratch* scratch, int digit, unsigned count, Mass mass) {
  atomicAdd(&scratch->counts[digit], count);
  if (mass == 0) return;
  const unsigned low = static_cast<unsigned>(mass);
  const unsigned carry = atomicAdd(&scratch->mass_low[digit], low) > ~low ? 1 : 0;
  const unsigned high = static_cast<unsigned>(mass >> 32) + carry;
  if (high != 0) atomicAdd(&scratch->mass_high[digit], high);
}

// Adds what the lanes of a warp have, those with digit >= 0. Most often that is one digit, to which
// a lane adds the sum: otherwise they would wait for each other.
__device__ inline void add_of_warp(Scratch* scratch, int digit, Mass mass) {
  const unsigned open = __ballot_sync(kAllLanes, digit >= 0);
  if (open == 0) return;
  const int common = __shfl_sync(kAllLanes, digit, static_cast<unsigned>(__ffs(open) - 1));
  if (__ballot_sync(kAllLanes, digit >= 0 && digit != common) != 0) {
    if (digit >= 0) add_to_digit(scratch, digit, 1, mass);
    return;
  }
  const Mass sum = warp_sum(mass);
  if (threadIdx.x % kWarp == 0) {
    add_to_digit(scratch, common, static_cast<unsigned>(__popc(open)), sum);
  }
}

// How many of `equal` candidates of one weight stay, the lowest codes first; -1 for all.
__device__ inline int64_t equals_that_stay(Mass equal, Mass weight, Mass before, double share) {
  Mass low = 0, high = equal;
  while (low < high) {
    const Mass middle = (low + high) / 2;
    if (static_cast<double>(before + middle * weight) < share) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < equal ? static_cast<int64_t>(low) : -1;
}

// keep_likeliest of kernels/cpu/sample_logits.cpp among what the cut leaves, which becomes smaller;
// a weight is 1 or a mass.
__device__ inline void cut_likeliest(Scratch* scratch, const double* scores, int count,
                                     bool by_mass, double share) {
  const int thread = threadIdx.x;
  if (thread == 0) {
    scratch->before = 0;
    scratch->digits = 0;
  }
  for (int shift = 64 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    scratch->mass_low[thread] = scratch->mass_high[thread] = scratch->counts[thread] = 0;
    if (thread == 0) scratch->chosen = 0;
    __syncthreads();
    const uint64_t digits = scratch->digits;
    for (int begin = 0; begin < count; begin += kThreads) {  // all lanes take as many turns
      const int v = begin + thread;
      int digit = -1;
      Mass mass = 0;
      if (v < count) {
        const uint64_t rank = rank_of(scores[v]);
        const bool open = shift == 64 - kDigitBits || (rank ^ digits) >> (shift + kDigitBits) == 0;
        if (open && stays(scratch->cut, scores[v], v)) {
          digit = static_cast<int>(rank >> shift) & (kDigits - 1);
          if (by_mass) mass = fixed_point_mass(scores[v]);
        }
      }
      add_of_warp(scratch, digit, mass);
    }
    __syncthreads();
    const Mass mass_here = Mass{scratch->mass_high[thread]} << 32 | scratch->mass_low[thread];
    const Mass own = by_mass ? mass_here : scratch->counts[thread];
    scratch->sums[thread] = own;
    Mass sum = scratch->before - own;
    __syncthreads();
    for (int width = 1; width < kDigits; width *= 2) {  // sums[d] becomes that of digits up to d
      const Mass lower = thread >= width ? scratch->sums[thread - width] : 0;
      __syncthreads();
      scratch->sums[thread] += lower;
      __syncthreads();
    }
    sum += scratch->sums[thread];  // what ranks before this thread's digit
    if (scratch->counts[thread] > 0 && static_cast<double>(sum) < share) {
      atomicMax(&scratch->chosen, static_cast<unsigned>(thread));
    }
    __syncthreads();
    if (thread == static_cast<int>(scratch->chosen)) {
      scratch->before = sum;
      scratch->digits = digits | static_cast<uint64_t>(thread) << shift;
      if (shift == 0) {
        const double score = -double_from_bits(scratch->digits);
        const Mass weight = by_mass ? Mass{fixed_point_mass(score)} : Mass{1};
        scratch->ties = equals_that_stay(scratch->counts[thread], weight, sum, share);
      }
    }
    __syncthreads();
  }
  const uint64_t rank = scratch->digits;
  const int64_t ties = scratch->ties;
  int low = 0, high = count - 1;  // the least code up to which so many are equal
  while (ties >= 0 && low < high) {
    const int middle = (low + high) / 2;
    Mass here = 0;
    for (int v = thread; v <= middle; v += kThreads) here += rank_of(scores[v]) == rank;
    if (block_sum(scratch, here) >= static_cast<Mass>(ties)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  if (thread == 0) {
    const bool same = rank == scratch->cut.rank;
    scratch->cut = {rank, ties >= 0 ? low : same ? scratch->cut.code : count - 1};
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads)
    sample_kernel(SampleLogitsArgs args, double* workspace) {
  __shared__ Scratch scratch;
  const int64_t row = blockIdx.x;
  const int count = static_cast<int>(args.num_codes);
  const DrawRule rule = args.rule;
  const double infinity = double_from_bits(0x7ff0000000000000u);
  const float* logits = args.logits + row * args.logits_stride;
  double* relative = workspace + row * count;

  Mass nans = 0;
  for (int v = threadIdx.x; v < count; v += kThreads) {
    double logit = logits[v];
    if (args.uncond_logits != nullptr) {
      logit = guided_logit(logit, args.uncond_logits[row * args.uncond_stride + v], rule.guidance);
    }
    relative[v] = logit;
    if (logit != logit) nans = 1;
  }
  const int highest = first_of_largest(&scratch, relative, count);
  if (block_sum(&scratch, nans) > 0 || highest >= count || relative[highest] == infinity) {
    if (threadIdx.x == 0) {
      args.codes[row] = -1;
      args.logprobs[row] = float_from_bits(0x7fc00000u);
    }
    return;
  }
  if (threadIdx.x == 0) {
    scratch.highest = highest;
    scratch.largest = relative[highest];
    scratch.cut = {~uint64_t{0}, count - 1};
  }
  __syncthreads();
  Mass mass = 0;
#pragma unroll 1
  for (int v = threadIdx.x; v < count; v += kThreads) {
    const double difference = relative[v] - scratch.largest;
    mass += fixed_point_mass(difference);
    relative[v] = rule.temperature == 0.0 ? difference : difference / rule.temperature;
  }
  mass = block_sum(&scratch, mass);
  if (threadIdx.x == 0) scratch.total = static_cast<double>(mass);
  if (rule.temperature > 0.0) {
    if (rule.top_k > 0 && rule.top_k < count) {
      cut_likeliest(&scratch, relative, count, false, static_cast<double>(rule.top_k));
    }
    if (rule.top_p < 1.0) {
      mass = 0;
      for (int v = threadIdx.x; v < count; v += kThreads) {
        if (stays(scratch.cut, relative[v], v)) mass += fixed_point_mass(relative[v]);
      }
      const double share = rule.top_p * static_cast<double>(block_sum(&scratch, mass));
      cut_likeliest(&scratch, relative, count, true, share);
    }
#pragma unroll 1
    for (int v = threadIdx.x; v < count; v += kThreads) {
      if (!stays(scratch.cut, relative[v], v) || relative[v] < rule.log_min_p) {
        relative[v] = -infinity;
        continue;
      }
      const uint32_t word =
          philox_word(static_cast<uint64_t>(args.seeds[row]),
                      static_cast<uint32_t>(args.cells[row]), static_cast<uint32_t>(v));
      relative[v] += gumbel_noise(word);
    }
    const int code = first_of_largest(&scratch, relative, count);
    if (threadIdx.x == 0) scratch.highest = code;
  }
  if (threadIdx.x != 0) return;
  const int code = scratch.highest;
  double chosen = logits[code];
  if (args.uncond_logits != nullptr) {
    chosen =
        guided_logit(chosen, args.uncond_logits[row * args.uncond_stride + code], rule.guidance);
  }
  args.codes[row] = code;
  args.logprobs[row] =
      static_cast<float>(chosen - scratch.largest - log_of_positive(scratch.total / kFixedPoint));
}

}  // namespace

cudaError_t sample_logits(const SampleLogitsArgs& args, double* workspace, cudaStream_t stream) {
  if (args.num_codes > 0x7fffffff - kThreads) return cudaErrorInvalidValue;
  return launch(sample_kernel, args.rows, 1, kThreads, stream, args, workspace);
}

}  // namespace cuda
}  // namespace vqgan_fast
