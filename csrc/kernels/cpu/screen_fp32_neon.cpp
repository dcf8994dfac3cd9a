// NEON: 4 lanes, 32 registers.
#include <arm_neon.h>

#include "kernels/cpu/screen_fp32_tiles.h"

namespace vqgan_fast {
namespace {

struct Neon {
  static constexpr int kLanes = 4;
  using Vector = float32x4_t;
  using Index = int32x4_t;

  static Vector load(const float* p) { return vld1q_f32(p); }
  static void store(float* p, Vector v) { vst1q_f32(p, v); }
  static Vector broadcast(const float* p) { return vld1q_dup_f32(p); }
  static Index load_index(const float* p) { return vreinterpretq_s32_f32(vld1q_f32(p)); }
  static void store_index(float* p, Index v) { vst1q_f32(p, vreinterpretq_f32_s32(v)); }
  static Index broadcast_index(int32_t i) { return vdupq_n_s32(i); }
  static Vector zero() { return vdupq_n_f32(0.0f); }
  static Vector add(Vector a, Vector b) { return vaddq_f32(a, b); }
  static Vector multiply(Vector a, Vector b) { return vmulq_f32(a, b); }
  static Vector multiply_subtract(Vector a, Vector b, Vector c) { return vfmsq_f32(c, a, b); }
  static Vector min(Vector a, Vector b) { return vminq_f32(a, b); }
  static Vector max(Vector a, Vector b) { return vmaxq_f32(a, b); }
  static Index replace(Index index, Vector a, Vector b, Index panel) {
    return vbslq_s32(vcltq_f32(a, b), panel, index);
  }
  static float lowest(Vector v) { return vminvq_f32(v); }
  static unsigned at_most(Vector v, Vector limit) {
    const uint32x4_t bits = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vcleq_f32(v, limit), bits));
  }
};

const ScreenFp32Kernel* kernel(int64_t num_codes, int64_t dim) {
  static_cast<void>(num_codes);
  switch (dim) {
    case 3:
      return &kKernel<Neon, Order::kVectors, 4, 8, 3>;
    case 4:
      return &kKernel<Neon, Order::kVectors, 4, 8, 4>;
    case 8:
      return &kKernel<Neon, Order::kDims, 5, 4, 8>;
    default:
      return &kKernel<Neon, Order::kDims, 5, 4, 0>;
  }
}

}  // namespace

const ScreenFp32Level kScreenFp32Neon = {kernel, prepare<Neon>, pack<Neon>};

}  // namespace vqgan_fast
