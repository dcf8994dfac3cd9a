// Vectors of 16 bytes of 64-bit ARM: 6 rows by 4 vectors of 4 codes in 24 of 32 registers. Included
// by screen_int8_<level>.cpp alone.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/quantised_kernels.h"

namespace vqgan_fast {
namespace {

struct NeonVectors {
  static constexpr int kVectors = 4;
  static constexpr int kLanes = 4;
  static constexpr int kTileRows = 6;
  static constexpr int64_t kLeastDimToMark = 1;
  using Int = int32x4_t;
  using Real = float64x2_t;
  using Short = int16_t __attribute__((vector_size(4)));

  static Int load(const int32_t* p) { return vld1q_s32(p); }
  static Int load_elements(const int16_t* p) { return vreinterpretq_s32_s16(vld1q_s16(p)); }
  static void store(int32_t* p, Int a) { vst1q_s32(p, a); }
  static Int broadcast(int32_t a) { return vdupq_n_s32(a); }
  static Int broadcast_elements(const int16_t* p) {
    int32_t elements;
    std::memcpy(&elements, p, sizeof elements);
    return vdupq_n_s32(elements);
  }
  static Int shift(Int a, const int32_t* count) { return vshlq_s32(a, vdupq_n_s32(-*count)); }
  static Int add(Int a, Int b) { return vaddq_s32(a, b); }
  static Int min(Int a, Int b) { return vminq_s32(a, b); }
  static Int max(Int a, Int b) { return vmaxq_s32(a, b); }
  static Int replace_low_bits(Int a, Int tag) {
    return vbslq_s32(vdupq_n_u32(kInt16TagMask), tag, a);
  }
  static int32_t smallest(Int a) { return vminvq_s32(a); }
  static uint32_t within(Int a, int32_t limit) {
    const uint32x4_t bits = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vcleq_s32(a, vdupq_n_s32(limit)), bits));
  }
  static uint64_t marked_words(const uint16_t* marks) {
    const uint8x8_t bits = {1, 2, 4, 8, 16, 32, 64, 128};
    uint64_t words = 0;
    for (int v = 0; v < kMarkedVectors; v += 8) {
      const uint16x8_t eight = vld1q_u16(marks + v);
      const uint8x8_t marked = vmovn_u16(vtstq_u16(eight, eight));
      words |= static_cast<uint64_t>(vaddv_u8(vand_u8(marked, bits))) << v;
    }
    return words;
  }
  static Short narrow(Real a) {
    return Short{static_cast<int16_t>(a[0]), static_cast<int16_t>(a[1])};
  }
};

}  // namespace
}  // namespace vqgan_fast
