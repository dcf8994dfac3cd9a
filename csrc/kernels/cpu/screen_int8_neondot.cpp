// 64-bit ARM with dot products of bytes: one instruction for four products and their sum.
#include "kernels/cpu/quantised_loops.h"
#include "kernels/cpu/quantised_vectors_neon.h"

namespace vqgan_fast {
namespace {

struct NeonDotInt8 : NeonVectors {
  static constexpr int kElements = 4;
  // The instruction takes both sides signed: the elements of codes as they were before 128 was
  // added. It is for all CPUs with dot products; not all of them have the one for either sign.
  static Int load_elements(const int16_t* p) {
    return veorq_s32(NeonVectors::load_elements(p), vreinterpretq_s32_u8(vdupq_n_u8(128)));
  }
  static Int dot(Int acc, Int codes, Int row) {
    return vdotq_s32(acc, vreinterpretq_s8_s32(codes), vreinterpretq_s8_s32(row));
  }
};

}  // namespace

const QuantisedKernels kScreenInt8NeonDot = make_kernels<NeonDotInt8>();

}  // namespace vqgan_fast
