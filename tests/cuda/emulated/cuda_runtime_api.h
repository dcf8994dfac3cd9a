// Enough of the CUDA runtime for a C++ compiler to compile csrc/kernels/cuda/*.cu and run the
// kernels on the host: the threads of a block are fibers that take turns, one block after another.
//
// What it shows: indexing, barriers that all threads reach, arithmetic, results that do not depend
// on the order in which threads run (set_schedule). What it cannot show: memory ordering between
// barriers, launch limits, speed, what ptxas makes of the code.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // one block at a time: a static variable is the block's own
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
using cudaStream_t = void*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorNotSupported = 801
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaFuncAttributes {
  int ptxVersion;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) ushort4 {
  unsigned short x, y, z, w;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace emulated {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 128 << 10;

// A spinning thread looks again at what it waits for whenever it is its turn.
enum class State { kReady, kSpinning, kAtBlockBarrier, kAtWarpBarrier, kDone };

// What a thread waits for its warp in: lanes of one warp must all be in the same.
enum class Collective { kSyncWarp, kShuffle, kBallot, kMatch, kLoadMatrices, kMultiply };

struct Fiber {
  ucontext_t context;  // for the first time, after that:
  jmp_buf jump;
  bool started;
  std::vector<char> stack;
  State state;
  Collective collective;  // at a warp's barrier
};

inline int multiprocessors = 4;
// 0: ascending thread numbers, 1: descending, more: the seed of a shuffle; less: one warp alone for
// as long as it needs no other, -1 the first first, -2 the last.
inline int schedule = 0;
inline int capability = 80;
inline std::vector<Fiber> fibers;
inline jmp_buf scheduler;
inline std::vector<uint64_t> dynamic_shared;
inline std::map<const void*, int> shared_limits;  // of kernels that asked for more than 48 KB
// What the copy engine and the like have still to do: called when all threads wait for something,
// false if there is nothing. It comes as late as it may.
inline std::function<bool()> work_in_flight;
inline std::function<void()> body;
inline unsigned current = 0;
inline uint64_t exchange[1024];

// No system call, unlike swapcontext.
[[gnu::noinline]] inline void wait(State state) {
  fibers[current].state = state;
  if (_setjmp(fibers[current].jump) == 0) _longjmp(scheduler, 1);
}

// Full masks: whoever is not done must come, in the same instruction.
inline void wait_for_warp(Collective collective) {
  fibers[current].collective = collective;
  wait(State::kAtWarpBarrier);
}

[[gnu::noinline]] inline void resume(unsigned thread) {
  current = thread;
  threadIdx.x = thread;
  if (_setjmp(scheduler) != 0) return;
  if (fibers[thread].started) _longjmp(fibers[thread].jump, 1);
  fibers[thread].started = true;
  setcontext(&fibers[thread].context);
}

template <class Condition>
void wait_until(const Condition& condition) {
  while (!condition()) wait(State::kSpinning);
}

inline void run_fiber() {
  body();
  wait(State::kDone);
}

// Lets everyone in [begin, end) go on if all who still run have arrived.
inline bool release(unsigned begin, unsigned end, State barrier) {
  bool any = false;
  unsigned first = begin;
  for (unsigned t = begin; t < end; ++t) {
    if (fibers[t].state == barrier) {
      if (!any) first = t;
      any = true;
      if (barrier == State::kAtWarpBarrier && fibers[t].collective != fibers[first].collective) {
        std::fprintf(stderr, "lanes of a warp meet in different instructions\n");
        std::abort();
      }
    } else if (fibers[t].state != State::kDone)
      return false;
  }
  for (unsigned t = begin; any && t < end; ++t) {
    if (fibers[t].state == barrier) fibers[t].state = State::kReady;
  }
  return any;
}

inline void run_block(unsigned num_threads) {
  static uint64_t random = 0;
  for (unsigned t = 0; t < num_threads; ++t) {
    Fiber& fiber = fibers[t];
    fiber.stack.resize(kStackBytes);
    fiber.state = State::kReady;
    fiber.started = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_fiber, 0);
  }
  std::vector<unsigned> order(num_threads);
  for (unsigned t = 0; t < num_threads; ++t) order[t] = schedule == 1 ? num_threads - 1 - t : t;
  const unsigned num_warps = (num_threads + kWarp - 1) / kWarp;
  int idle = 0;  // rounds in which all who ran waited on
  for (;;) {
    if (schedule > 1) {
      for (unsigned t = num_threads - 1; t > 0; --t) {
        random = random * 6364136223846793005u + static_cast<uint64_t>(schedule);
        std::swap(order[t], order[(random >> 33) % (t + 1)]);
      }
    }
    bool ran = false;
    const auto run = [&](unsigned t) {
      if (fibers[t].state != State::kReady && fibers[t].state != State::kSpinning) return;
      resume(t);
      if (fibers[t].state == State::kSpinning) return;
      ran = true;
      idle = 0;
    };
    const auto release_warp = [&](unsigned warp) {
      const unsigned end = std::min((warp + 1) * kWarp, num_threads);
      return release(warp * kWarp, end, State::kAtWarpBarrier);
    };
    bool released = false;
    if (schedule < 0) {
      for (unsigned i = 0; i < num_warps; ++i) {
        const unsigned warp = schedule == -1 ? i : num_warps - 1 - i;
        do {
          for (unsigned t = warp * kWarp; t < std::min((warp + 1) * kWarp, num_threads); ++t)
            run(t);
        } while (release_warp(warp));
      }
    } else {
      for (const unsigned t : order) run(t);
      for (unsigned warp = 0; warp < num_warps; ++warp) released = release_warp(warp) || released;
    }
    if (release(0, num_threads, State::kAtBlockBarrier)) released = true;
    if (released) continue;
    bool done = true;
    bool spinning = false;
    for (unsigned t = 0; t < num_threads; ++t) {
      done = done && fibers[t].state == State::kDone;
      spinning = spinning || fibers[t].state == State::kSpinning;
    }
    if (done) return;
    if (spinning && !ran && work_in_flight && work_in_flight()) continue;
    if (spinning && ++idle < 1000) continue;
    std::fprintf(stderr, "a barrier that not all threads reach, or a wait that nobody ends\n");
    std::abort();
  }
}

template <class T>
T from_lane(T value, unsigned source) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "one exchange slot for each thread");
  std::memcpy(&exchange[current], &value, sizeof value);
  wait_for_warp(Collective::kShuffle);
  if (fibers[source].state == State::kDone) {
    std::fprintf(stderr, "a shuffle from a lane that is done\n");
    std::abort();
  }
  std::memcpy(&value, &exchange[source], sizeof value);
  wait_for_warp(Collective::kShuffle);
  return value;
}

}  // namespace emulated

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  if (config->gridDim.x == 0 || config->gridDim.y == 0) return cudaErrorInvalidConfiguration;
  const auto limit = emulated::shared_limits.find(reinterpret_cast<const void*>(kernel));
  const size_t allowed = limit == emulated::shared_limits.end() ? 48 << 10 : limit->second;
  if (config->dynamicSmemBytes > allowed) return cudaErrorInvalidValue;
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  if (emulated::fibers.size() < blockDim.x) emulated::fibers.resize(blockDim.x);
  emulated::body = [&] { kernel(static_cast<Parameters>(arguments)...); };
  for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y) {
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
      emulated::dynamic_shared.assign(config->dynamicSmemBytes / 8 + 2, ~uint64_t{0});
      emulated::run_block(blockDim.x);
    }
  }
  return cudaSuccess;
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount      ? emulated::multiprocessors
           : attribute == cudaDevAttrComputeCapabilityMajor ? emulated::capability / 10
                                                            : emulated::capability % 10;
  return cudaSuccess;
}

inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  const bool large = emulated::capability == 80 || emulated::capability / 10 == 9;
  if (value > (large ? 227 << 10 : emulated::capability == 75 ? 64 << 10 : 99 << 10)) {
    return cudaErrorInvalidValue;
  }
  const auto [limit, is_new] = emulated::shared_limits.insert({kernel, value});
  if (!is_new && limit->second != value) {
    std::fprintf(stderr,
                 "a kernel's shared memory allowed anew: threads that launch it share it\n");
    std::abort();
  }
  return cudaSuccess;
}

inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  attributes->ptxVersion = emulated::capability;
  return cudaSuccess;
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }

inline void __syncthreads() { emulated::wait(emulated::State::kAtBlockBarrier); }

inline void __syncwarp() { emulated::wait_for_warp(emulated::Collective::kSyncWarp); }

template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta, int width) {
  const unsigned self = emulated::current;
  const bool inside = self % width + delta < static_cast<unsigned>(width);
  return emulated::from_lane(value, inside ? self + delta : self);
}

// `lane` of the caller's own warp.
template <class T>
T __shfl_sync(unsigned, T value, unsigned lane) {
  return emulated::from_lane(value, emulated::current / emulated::kWarp * emulated::kWarp + lane);
}

template <class T>
T __shfl_xor_sync(unsigned, T value, unsigned mask) {
  return emulated::from_lane(value, emulated::current ^ mask);
}

inline unsigned __ballot_sync(unsigned, bool value) {
  const unsigned first = emulated::current / emulated::kWarp * emulated::kWarp;
  unsigned votes = 0;
  emulated::exchange[emulated::current] = value;
  emulated::wait_for_warp(emulated::Collective::kBallot);
  for (unsigned lane = 0; lane < emulated::kWarp; ++lane) {
    if (emulated::exchange[first + lane] != 0) votes |= 1u << lane;
  }
  emulated::wait_for_warp(emulated::Collective::kBallot);
  return votes;
}

inline unsigned __match_any_sync(unsigned, int value) {
  const unsigned first = emulated::current / emulated::kWarp * emulated::kWarp;
  unsigned equals = 0;
  emulated::exchange[emulated::current] = static_cast<unsigned>(value);
  emulated::wait_for_warp(emulated::Collective::kMatch);
  for (unsigned lane = 0; lane < emulated::kWarp; ++lane) {
    if (emulated::exchange[first + lane] == static_cast<unsigned>(value)) equals |= 1u << lane;
  }
  emulated::wait_for_warp(emulated::Collective::kMatch);
  return equals;
}

inline double __dadd_rn(double a, double b) { return a + b; }

inline double __dmul_rn(double a, double b) { return a * b; }

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline int __ffs(int bits) { return __builtin_ffs(bits); }

inline unsigned atomicMax(unsigned* address, unsigned value) {
  const unsigned before = *address;
  if (value > before) *address = value;
  return before;
}

inline unsigned atomicAdd(unsigned* address, unsigned value) {
  const unsigned before = *address;
  *address += value;
  return before;
}

inline int atomicAdd(int* address, int value) {
  const int before = *address;
  *address += value;
  return before;
}

inline unsigned long long atomicAdd(unsigned long long* address, unsigned long long value) {
  const unsigned long long before = *address;
  *address += value;
  return before;
}
