// Any CPU: vectors of 16 bytes as the compiler makes them.
#include <cstdint>
#include <cstring>

#include "kernels/cpu/screen_int16_loops.h"

namespace vqgan_fast {
namespace {

struct Baseline {
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
  static Int load_pairs(const int16_t* p) {
    Int a;
    std::memcpy(&a, p, sizeof a);
    return a;
  }
  static void store(int32_t* p, Int a) { std::memcpy(p, &a, sizeof a); }
  static Int broadcast(int32_t a) { return Int{a, a, a, a}; }
  static Int broadcast_pair(const int16_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    return broadcast(pair);
  }
  static Int shift(Int a, const int32_t* count) { return a >> *count; }
  // Both halves of each int32 with their signs.
  static Int dot(Int acc, Int a, Int b) {
    return acc + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
  }
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
  static Short narrow(Real a) {
    return Short{static_cast<int16_t>(a[0]), static_cast<int16_t>(a[1])};
  }
};

}  // namespace

const ScreenInt16Kernels kScreenInt16Baseline = make_kernels<Baseline>();

}  // namespace vqgan_fast
