// exp, log and the GELU of the decode ops, for the host's compilers and for nvcc: the same bits on
// every device and at every SIMD level, because every fused multiply-add is written as one and
// nothing is contracted (-ffp-contract=off, --fmad=false). Branches are selections, so that loops
// over these functions vectorise. docs/decode_numerics.md has the errors.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define VQGAN_FAST_MATH __host__ __device__ __forceinline__
#else
#define VQGAN_FAST_MATH inline __attribute__((always_inline))
#endif

namespace vqgan_fast {
namespace {  // each SIMD level compiles its own

#if defined(__CUDA_ARCH__)
VQGAN_FAST_MATH float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
VQGAN_FAST_MATH double fused(double a, double b, double c) { return __fma_rn(a, b, c); }
#else
VQGAN_FAST_MATH float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
VQGAN_FAST_MATH double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
#endif

VQGAN_FAST_MATH float float_from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
VQGAN_FAST_MATH uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
VQGAN_FAST_MATH double double_from_bits(uint64_t bits) {
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
VQGAN_FAST_MATH uint64_t double_to_bits(double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

// exp(x) for x <= 0, 0 below -87; a NaN stays one. exp(n ln2 + r) = 2^n (1 + r + r^2 p(r)), where p
// is a least-maximum fit on |r| <= ln2 / 2 that leaves 3.2e-9.
VQGAN_FAST_MATH float exp_of_negative(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits
  const float y = x < -87.0f ? -87.0f : x;
  const float shifted = fused(y, 0x1.715476p+0f, kRound);
  const float n = shifted - kRound;
  float r = fused(n, -0x1.62e400p-1f, y);  // 15 bits of ln2: n times it is exact
  r = fused(n, -0x1.7f7d1cp-20f, r);
  float p = 0x1.6db426p-10f;
  p = fused(p, r, 0x1.123b56p-7f);
  p = fused(p, r, 0x1.55545ep-5f);
  p = fused(p, r, 0x1.55548ep-3f);
  p = fused(p, r, 0x1.000000p-1f);
  const float value = fused(r * r, p, r) + 1.0f;
  const float scale = float_from_bits((float_to_bits(shifted) << 23) + 0x3f800000u);
  return x < -87.0f ? 0.0f : value * scale;
}

// x Phi(x), Phi the normal distribution function (Hendrycks and Gimpel, "Gaussian error linear
// units", 2016). -log Phi(-t) is a polynomial on 0 <= t <= 6, a least-maximum fit; beyond, Phi(-t)
// is below 1e-9 and taken for 0.
VQGAN_FAST_MATH float gelu(float x) {
  const float magnitude = x < 0.0f ? -x : x;
  const float t = magnitude > 6.0f ? 6.0f : magnitude;
  float p = -0x1.570382p-29f;
  p = fused(p, t, 0x1.761a12p-24f);
  p = fused(p, t, -0x1.6b6674p-20f);
  p = fused(p, t, 0x1.9c3af4p-17f);
  p = fused(p, t, -0x1.267b96p-14f);
  p = fused(p, t, 0x1.e7491ap-13f);
  p = fused(p, t, -0x1.b07400p-15f);
  p = fused(p, t, -0x1.390232p-8f);
  p = fused(p, t, 0x1.29a71ep-5f);
  p = fused(p, t, 0x1.45f302p-2f);
  p = fused(p, t, 0x1.988454p-1f);
  p = fused(p, t, 0x1.62e430p-1f);
  const float tail = magnitude > 6.0f ? 0.0f : exp_of_negative(-p);
  return x * (x < 0.0f ? tail : 1.0f - tail);
}

// exp(x) for x <= 0, 0 below -700 (the fixed point of sample_logits ends at -28); Taylor's
// polynomial on |r| <= ln2 / 2 leaves 4e-18.
VQGAN_FAST_MATH double exp_of_negative(double x) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  const double y = x < -700.0 ? -700.0 : x;
  const double shifted = fused(y, 0x1.71547652b82fep+0, kRound);
  const double n = shifted - kRound;
  double r = fused(n, -0x1.62e42fefa0000p-1, y);  // 33 bits of ln2: n times it is exact
  r = fused(n, -0x1.cf79abc9e3b3ap-40, r);
  double p = 1.0 / 6227020800.0;
  p = fused(p, r, 1.0 / 479001600.0);
  p = fused(p, r, 1.0 / 39916800.0);
  p = fused(p, r, 1.0 / 3628800.0);
  p = fused(p, r, 1.0 / 362880.0);
  p = fused(p, r, 1.0 / 40320.0);
  p = fused(p, r, 1.0 / 5040.0);
  p = fused(p, r, 1.0 / 720.0);
  p = fused(p, r, 1.0 / 120.0);
  p = fused(p, r, 1.0 / 24.0);
  p = fused(p, r, 1.0 / 6.0);
  p = fused(p, r, 0.5);
  const double value = fused(r * r, p, r) + 1.0;
  const double scale = double_from_bits((double_to_bits(shifted) << 52) + 0x3ff0000000000000u);
  return x < -700.0 ? 0.0 : value * scale;
}

// log(x) of a positive normal number: x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), and
// log(1 + f) = 2 artanh(s), s = f / (2 + f), by its series to s^23.
VQGAN_FAST_MATH double log_of_positive(double x) {
  const uint64_t bits = double_to_bits(x);
  const uint64_t above = bits - 0x3fe6a09e667f3bcdu;  // from the bits of sqrt(1/2)
  // e by way of a double's bits: SIMD levels below AVX-512 convert no 64-bit integers.
  const double e =
      double_from_bits(0x4338000000000000u + ((above + 0x4000000000000000u) >> 52) - 0x400u) -
      6755399441055744.0;
  const double m = double_from_bits((above & 0x000fffffffffffffu) + 0x3fe6a09e667f3bcdu);
  const double f = m - 1.0;
  const double s = f / (2.0 + f), s2 = s * s;
  double p = 2.0 / 23.0;
  p = fused(p, s2, 2.0 / 21.0);
  p = fused(p, s2, 2.0 / 19.0);
  p = fused(p, s2, 2.0 / 17.0);
  p = fused(p, s2, 2.0 / 15.0);
  p = fused(p, s2, 2.0 / 13.0);
  p = fused(p, s2, 2.0 / 11.0);
  p = fused(p, s2, 2.0 / 9.0);
  p = fused(p, s2, 2.0 / 7.0);
  p = fused(p, s2, 2.0 / 5.0);
  p = fused(p, s2, 2.0 / 3.0);
  const double tail = fused(s * s2, p, e * 0x1.cf79abc9e3b3ap-40);
  return fused(e, 0x1.62e42fefa0000p-1, fused(2.0, s, tail));
}

}  // namespace
}  // namespace vqgan_fast
