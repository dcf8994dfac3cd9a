// What this machine can do at most: fp32 multiply-adds and bytes read from memory, a second.
// Compiled by machine.py for the CPU it runs on, at the widest vectors of that CPU; no part of the
// package.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
typedef float Vector __attribute__((vector_size(kBytes), may_alias, aligned(4)));
constexpr int kLanes = kBytes / 4;
// Enough sums to hide an FMA's latency on two or more ports, few enough for 16 registers.
constexpr int kSums = 12;

volatile float sink;

float total(const Vector* sums) {
  float all = 0;
  for (int i = 0; i < kSums; ++i) {
    for (int lane = 0; lane < kLanes; ++lane) all += sums[i][lane];
  }
  return all;
}

void multiply_add(int64_t steps) {
  volatile float factor = 0.999f;
  const Vector a = Vector{} + factor;
  const Vector b = Vector{} + 1 - factor;
  // Unequal starts, which the compiler does not know: equal sums would be computed once.
  Vector sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = Vector{} + factor * static_cast<float>(i);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) sums[i] = sums[i] * a + b;
  }
  sink = total(sums);
}

void read(const float* data, int64_t count) {
  Vector sums[kSums] = {};
  for (int64_t at = 0; at + kSums * kLanes <= count; at += kSums * kLanes) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) {
      sums[i] += *reinterpret_cast<const Vector*>(data + at + i * kLanes);
    }
  }
  sink = total(sums);
}

// Seconds from the moment when every thread is there until the last one is done.
template <typename Work>
double seconds(int num_threads, const Work& work) {
  std::atomic<int> missing{num_threads};
  const auto run = [&](int thread) {
    missing.fetch_sub(1);
    while (missing.load() > 0) std::this_thread::yield();
    work(thread);
  };
  std::vector<std::thread> others;
  for (int thread = 1; thread < num_threads; ++thread) others.emplace_back(run, thread);
  missing.fetch_sub(1);
  while (missing.load() > 0) std::this_thread::yield();
  const auto start = std::chrono::steady_clock::now();
  work(0);
  for (std::thread& other : others) other.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

extern "C" {

int peak_lanes() { return kLanes; }

// fp32 operations a second, an FMA being two.
double peak_fma(int num_threads, int64_t steps) {
  const double time = seconds(num_threads, [&](int) { multiply_add(steps); });
  return 2.0 * kSums * kLanes * static_cast<double>(steps) * num_threads / time;
}

// Bytes a second; `count` floats are shared between the threads.
double peak_read(int num_threads, const float* data, int64_t count) {
  const int64_t share = count / num_threads;
  const double time = seconds(num_threads, [&](int thread) { read(data + thread * share, share); });
  return 4.0 * static_cast<double>(share) * num_threads / time;
}
}
