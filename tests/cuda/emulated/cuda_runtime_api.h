// Enough of the CUDA runtime for a C++ compiler to compile csrc/kernels/cuda/*.cu and run the
// kernels on the host: the threads of a block are fibers that take turns, one block after another.
//
// What it shows: indexing, barriers that all threads reach, arithmetic, results that do not depend
// on the order in which threads run (set_schedule). What it cannot show: memory ordering between
// barriers, launch limits, speed, what ptxas makes of the code.
#pragma once

#include <math.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
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
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace emulated {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 128 << 10;

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  State state;
};

inline int multiprocessors = 4;
inline int schedule = 0;  // 0: ascending thread numbers, 1: descending, else: the seed of a shuffle
inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline std::function<void()> body;
inline unsigned current = 0;
inline uint64_t exchange[1024];

inline void wait(State state) {
  const unsigned self = current;
  fibers[self].state = state;
  swapcontext(&fibers[self].context, &scheduler);
}

inline void run_fiber() {
  body();
  wait(State::kDone);
}

// Lets everyone in [begin, end) go on if all who still run have arrived.
inline bool release(unsigned begin, unsigned end, State barrier) {
  bool any = false;
  for (unsigned t = begin; t < end; ++t) {
    if (fibers[t].state == barrier)
      any = true;
    else if (fibers[t].state != State::kDone)
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
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_fiber, 0);
  }
  std::vector<unsigned> order(num_threads);
  for (unsigned t = 0; t < num_threads; ++t) order[t] = schedule == 1 ? num_threads - 1 - t : t;
  for (;;) {
    if (schedule > 1) {
      for (unsigned t = num_threads - 1; t > 0; --t) {
        random = random * 6364136223846793005u + static_cast<uint64_t>(schedule);
        std::swap(order[t], order[(random >> 33) % (t + 1)]);
      }
    }
    bool ran = false;
    for (const unsigned t : order) {
      if (fibers[t].state != State::kReady) continue;
      ran = true;
      current = t;
      threadIdx.x = t;
      swapcontext(&scheduler, &fibers[t].context);
    }
    bool released = release(0, num_threads, State::kAtBlockBarrier);
    for (unsigned t = 0; t < num_threads; t += kWarp) {
      const unsigned end = t + kWarp < num_threads ? t + kWarp : num_threads;
      if (release(t, end, State::kAtWarpBarrier)) released = true;
    }
    if (released) continue;
    if (ran) {
      bool done = true;
      for (unsigned t = 0; t < num_threads; ++t) done = done && fibers[t].state == State::kDone;
      if (done) return;
    }
    std::fprintf(stderr, "a barrier that not all threads of the block or warp reach\n");
    std::abort();
  }
}

template <class T>
T from_lane(T value, unsigned source) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "one exchange slot for each thread");
  std::memcpy(&exchange[current], &value, sizeof value);
  wait(State::kAtWarpBarrier);
  std::memcpy(&value, &exchange[source], sizeof value);
  wait(State::kAtWarpBarrier);
  return value;
}

}  // namespace emulated

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  if (config->gridDim.x == 0 || config->gridDim.y == 0) return cudaErrorInvalidConfiguration;
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  if (emulated::fibers.size() < blockDim.x) emulated::fibers.resize(blockDim.x);
  emulated::body = [&] { kernel(static_cast<Parameters>(arguments)...); };
  for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y) {
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) emulated::run_block(blockDim.x);
  }
  return cudaSuccess;
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = emulated::multiprocessors;
  return cudaSuccess;
}

inline void __syncthreads() { emulated::wait(emulated::State::kAtBlockBarrier); }

inline void __syncwarp() { emulated::wait(emulated::State::kAtWarpBarrier); }

template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta, int width) {
  const unsigned self = emulated::current;
  const bool inside = self % width + delta < static_cast<unsigned>(width);
  return emulated::from_lane(value, inside ? self + delta : self);
}

template <class T>
T __shfl_xor_sync(unsigned, T value, unsigned mask) {
  return emulated::from_lane(value, emulated::current ^ mask);
}

inline unsigned __match_any_sync(unsigned, int value) {
  const unsigned first = emulated::current / emulated::kWarp * emulated::kWarp;
  unsigned equals = 0;
  emulated::exchange[emulated::current] = static_cast<unsigned>(value);
  emulated::wait(emulated::State::kAtWarpBarrier);
  for (unsigned lane = 0; lane < emulated::kWarp; ++lane) {
    if (emulated::exchange[first + lane] == static_cast<unsigned>(value)) equals |= 1u << lane;
  }
  emulated::wait(emulated::State::kAtWarpBarrier);
  return equals;
}

inline double __dadd_rn(double a, double b) { return a + b; }

inline double __dmul_rn(double a, double b) { return a * b; }

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline int atomicAdd(int* address, int value) {
  const int before = *address;
  *address += value;
  return before;
}
