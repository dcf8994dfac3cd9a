// Stands in for csrc/kernels/cuda/ptx.cuh on the host: what the PTX ISA says of each instruction,
// with copies that come as late as they may, and sums that lose as much as they may.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

namespace emulated {

inline void check(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

inline unsigned char* shared_begin() {
  return reinterpret_cast<unsigned char*>(dynamic_shared.data());
}

// Every fp16 as an fp32.
inline const float* half_values() {
  static const std::vector<float> values = [] {
    std::vector<float> all(1 << 16);
    for (int bits = 0; bits < 1 << 16; ++bits) {
      const int exponent = bits >> 10 & 31;
      const int fraction = bits & 1023;
      const double magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                               : exponent     ? ldexp(1024 + fraction, exponent - 25)
                                              : ldexp(fraction, -24);
      all[bits] = static_cast<float>(bits >> 15 ? -magnitude : magnitude);
    }
    return all;
  }();
  return values.data();
}

inline float half_value(uint32_t bits) { return half_values()[bits & 0xffff]; }

// acc + a b, rounded towards zero: no tensor core is known to lose more in each addition.
inline float add_product(float acc, float a, float b) {
  const double sum = static_cast<double>(acc) + static_cast<double>(a) * static_cast<double>(b);
  const float nearest = static_cast<float>(sum);
  if (fabs(static_cast<double>(nearest)) <= fabs(sum)) return nearest;
  uint32_t bits;
  std::memcpy(&bits, &nearest, sizeof bits);
  --bits;
  float lower;
  std::memcpy(&lower, &bits, sizeof lower);
  return lower;
}

// What the lanes of a warp hand each other in one instruction. Two, in turn: who writes the next
// one has seen everyone read the last but one.
struct Exchange {
  const void* rows[kWarp];
  float a[kWarp][8];
  float b[kWarp][4];
};
inline Exchange exchanges[32][2];
inline unsigned char exchange_turns[1024];

inline Exchange& next_exchange() {
  return exchanges[current / kWarp][exchange_turns[current]++ & 1];
}

// Copies of each thread, by group; the last group is still open.
struct AsyncCopy {
  void* shared;
  const void* global;
};
inline std::vector<std::vector<AsyncCopy>> copies[1024];

}  // namespace emulated

namespace vqgan_fast {
namespace ptx {

inline unsigned char* dynamic_shared() { return emulated::shared_begin(); }

inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(pointer) -
                               emulated::shared_begin());
}

inline float from_half(uint16_t bits) { return emulated::half_value(bits); }

inline uint16_t to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const float magnitude = fabsf(value);
  if (magnitude != magnitude) return 0x7fff;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  // Values below 2^(e+1) come in steps of 2^(e-10), of 2^-24 at the least.
  int exponent = magnitude == 0.0f ? -24 : ilogbf(magnitude);
  if (exponent < -14) exponent = -14;
  const int steps = static_cast<int>(rint(ldexp(magnitude, 10 - exponent)));
  return static_cast<uint16_t>(sign | (((exponent + 14) << 10) + steps));
}

inline void copy_async_16(void* shared, const void* global) {
  emulated::check(reinterpret_cast<uintptr_t>(global) % 16 == 0 && shared_address(shared) % 16 == 0,
                  "cp.async: 16 bytes must be aligned");
  emulated::check(shared_address(shared) + 16 <= emulated::dynamic_shared.size() * 8 - 16,
                  "cp.async: outside shared memory");
  auto& groups = emulated::copies[emulated::current];
  if (groups.empty()) groups.emplace_back();
  groups.back().push_back({shared, global});
}

inline void commit_copies() {
  auto& groups = emulated::copies[emulated::current];
  if (groups.empty()) groups.emplace_back();
  groups.emplace_back();
}

template <int kGroups>
void wait_for_copies() {
  auto& groups = emulated::copies[emulated::current];
  while (groups.size() > kGroups + 1) {
    for (const auto& copy : groups.front()) std::memcpy(copy.shared, copy.global, 16);
    groups.erase(groups.begin());
  }
}

inline void load_matrices(uint32_t (&registers)[4], const void* row) {
  const unsigned lane = emulated::current % emulated::kWarp;
  emulated::check(shared_address(row) % 16 == 0, "ldmatrix: a row must be aligned");
  emulated::Exchange& all = emulated::next_exchange();
  all.rows[lane] = row;
  emulated::wait_for_warp(emulated::Collective::kLoadMatrices);
  for (unsigned matrix = 0; matrix < 4; ++matrix) {
    const auto* source = static_cast<const unsigned char*>(all.rows[8 * matrix + lane / 4]);
    std::memcpy(&registers[matrix], source + 4 * (lane % 4), 4);
  }
}

inline void multiply_accumulate(float* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const unsigned lane = emulated::current % emulated::kWarp;
  emulated::Exchange& all = emulated::next_exchange();
  for (int i = 0; i < 4; ++i) {
    all.a[lane][2 * i] = emulated::half_value(a[i]);
    all.a[lane][2 * i + 1] = emulated::half_value(a[i] >> 16);
  }
  all.b[lane][0] = emulated::half_value(b0);
  all.b[lane][1] = emulated::half_value(b0 >> 16);
  all.b[lane][2] = emulated::half_value(b1);
  all.b[lane][3] = emulated::half_value(b1 >> 16);
  emulated::wait_for_warp(emulated::Collective::kMultiply);
  // PTX ISA, "Matrix fragments for mma.m16n8k16": element (row, k) of a is value k % 2 of register
  // row / 8 + 2 (k / 8) of lane 4 (row % 8) + k % 8 / 2; (k, n) of b value k % 2 of register k / 8
  // of lane 4 n + k % 8 / 2; (row, n) of d value n % 2 + 2 (row / 8) of lane 4 (row % 8) + n / 2.
  for (int i = 0; i < 4; ++i) {
    const int row = static_cast<int>(lane / 4) + i / 2 * 8;
    const int n = static_cast<int>(lane % 4) * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const float x = all.a[row % 8 * 4 + k % 8 / 2][(row / 8 + k / 8 * 2) * 2 + k % 2];
      const float y = all.b[n * 4 + k % 8 / 2][k / 8 * 2 + k % 2];
      d[i] = emulated::add_product(d[i], x, y);
    }
  }
}

}  // namespace ptx
}  // namespace vqgan_fast
