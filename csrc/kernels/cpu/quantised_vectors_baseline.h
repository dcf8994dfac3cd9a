// Vectors of 16 bytes as the compiler makes them, on any CPU: 4 rows by 2 vectors of 4 codes.
// Included by screen_{int16,int8}_baseline.cpp alone.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/quantised_kernels.h"

namespace vqgan_fast {
namespace {

struct BaselineVectors {
  static constexpr int kVectors = 2;
  static constexpr int kLanes = 4;
  static constexpr int kTileRows = 4;
  static constexpr int64_t kLeastDimToMark = 1;  // neither faster nor slower by it
  typedef int32_t Int __attribute__((vector_size(16)));
  typedef double Real __attribute__((vector_size(16)));
  typedef int16_t Short __attribute__((vector_size(4)));

  static Int load(const int32_t* p) {
    Int a;
    std::memcpy(&a, p, sizeof a);
    return a;
  }
  static Int load_elements(const int16_t* p) {
    Int a;
    std::memcpy(&a, p, sizeof a);
    return a;
  }
  static void store(int32_t* p, Int a) { std::memcpy(p, &a, sizeof a); }
  static Int broadcast(int32_t a) { return Int{a, a, a, a}; }
  static Int broadcast_elements(const int16_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    return broadcast(pair);
  }
  static Int shift(Int a, const int32_t* count) { return a >> *count; }
  static Int add(Int a, Int b) { return a + b; }
  static Int min(Int a, Int b) { return a < b ? a : b; }
  static Int max(Int a, Int b) { return a < b ? b : a; }
  static Int replace_low_bits(Int a, Int tag) { return (a & ~kInt16TagMask) | tag; }
  static int32_t smallest(Int a) {
    int32_t least = a[0];
    for (int i = 1; i < kLanes; ++i) least = a[i] < least ? a[i] : least;
    return least;
  }
  static uint32_t within(Int a, int32_t limit) {
    uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= static_cast<uint32_t>(a[i] <= limit) << i;
    return bits;
  }
  static uint64_t marked_words(const uint16_t* marks) {
    uint64_t words = 0;
    for (int v = 0; v < kMarkedVectors; ++v) words |= static_cast<uint64_t>(marks[v] != 0) << v;
    return words;
  }
  static Short narrow(Real a) {
    return Short{static_cast<int16_t>(a[0]), static_cast<int16_t>(a[1])};
  }
};

}  // namespace
}  // namespace vqgan_fast
