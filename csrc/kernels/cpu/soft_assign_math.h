// exp, log and Gumbel noise on a level's vectors. Everything is in an anonymous namespace, so that
// each level's file has copies of its own.
//
// A level's `Simd` derives from Fp32Vectors and has multiply_add(a, b, c) = a b + c, max(a, b)
// which is b if one is NaN, broadcast, and multiply_words(words, factor, high, low), the halves of
// the 64-bit products.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/cpu/soft_assign_loops.h"

namespace vqgan_fast {
namespace {

template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "a cast of bits");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <int kBytes>
struct Fp32Vectors {
  static constexpr int kLanes = kBytes / 4;
  static constexpr float kLeastLog = -104.0f;  // of which and below the exponential is 0
  using Scalar = float;
  using Noise = float;
  typedef float Vector __attribute__((vector_size(kBytes)));
  typedef int32_t Ints __attribute__((vector_size(kBytes)));
  typedef uint32_t Words __attribute__((vector_size(kBytes)));

  static Vector load(const float* p) {
    Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(float* p, Vector v) { std::memcpy(p, &v, sizeof v); }
};

// exp(x) within 1e-7 of it, relatively, for x <= 88; 0 below log(2^-126), NaN for NaN. With n the
// integer nearest to x / log 2 and r = x - n log 2, exp(x) = 2^n exp(r); a polynomial for the
// latter, whose error is below 8e-9.
template <class Simd>
inline typename Simd::Vector exponential(typename Simd::Vector x) {
  using Vector = typename Simd::Vector;
  using Ints = typename Simd::Ints;
  using Words = typename Simd::Words;
  // Added to a small number, it leaves the nearest integer in the low bits.
  const Vector magic = Simd::broadcast(0x1.8p23f);
  const Vector shifted = Simd::multiply_add(x, Simd::broadcast(0x1.715476p0f), magic);
  const Vector n = shifted - magic;
  // log 2 in two parts: n times the first is exact.
  Vector r = Simd::multiply_add(n, Simd::broadcast(-0x1.62e4p-1f), x);
  r = Simd::multiply_add(n, Simd::broadcast(-0x1.7f7d1cp-20f), r);
  Vector p = Simd::broadcast(0.00139411236f);
  p = Simd::multiply_add(p, r, Simd::broadcast(0.00836320501f));
  p = Simd::multiply_add(p, r, Simd::broadcast(0.0416663736f));
  p = Simd::multiply_add(p, r, Simd::broadcast(0.166665763f));
  p = Simd::multiply_add(p, r, Simd::broadcast(0.5f));
  p = Simd::multiply_add(p, r, Simd::broadcast(1.0f));
  p = Simd::multiply_add(p, r, Simd::broadcast(1.0f));
  // As unsigned words, which may wrap: what n is beyond the range is masked below.
  const Vector power = bits_as<Vector>((bits_as<Words>(shifted) << 23) + (127u << 23));
  const Ints zero = x < Simd::broadcast(-0x1.5d58ap6f);
  return bits_as<Vector>(bits_as<Ints>(p * power) & ~zero);
}

// log(1 + f) + exponent log 2 for f in [sqrt(1/2) - 1, sqrt(2) - 1].
template <class Simd>
inline typename Simd::Vector log_of_parts(typename Simd::Vector f, typename Simd::Vector exponent) {
  using Vector = typename Simd::Vector;
  Vector p = Simd::broadcast(-0.0830431953f);
  p = Simd::multiply_add(p, f, Simd::broadcast(0.127984747f));
  p = Simd::multiply_add(p, f, Simd::broadcast(-0.129435793f));
  p = Simd::multiply_add(p, f, Simd::broadcast(0.141902968f));
  p = Simd::multiply_add(p, f, Simd::broadcast(-0.16643481f));
  p = Simd::multiply_add(p, f, Simd::broadcast(0.200018778f));
  p = Simd::multiply_add(p, f, Simd::broadcast(-0.250002801f));
  p = Simd::multiply_add(p, f, Simd::broadcast(0.333333254f));
  const Vector square = f * f;
  Vector low = Simd::multiply_add(p * f, square, exponent * Simd::broadcast(-2.12194440e-4f));
  low = Simd::multiply_add(square, Simd::broadcast(-0.5f), low);
  return Simd::multiply_add(exponent, Simd::broadcast(0x1.63p-1f), f + low);
}

template <class Simd>
struct LogParts {
  typename Simd::Vector f;
  typename Simd::Vector exponent;
};

// x = 2^exponent (1 + f), for x positive and normal.
template <class Simd>
inline LogParts<Simd> log_parts(typename Simd::Vector x) {
  using Vector = typename Simd::Vector;
  using Ints = typename Simd::Ints;
  using Words = typename Simd::Words;
  constexpr int32_t kRootHalf = 0x3f3504f3;
  const Ints bits = bits_as<Ints>(x);
  const Ints exponent = (bits - kRootHalf) >> 23;
  return {bits_as<Vector>(bits_as<Words>(bits) - (bits_as<Words>(exponent) << 23)) - 1.0f,
          __builtin_convertvector(exponent, Vector)};
}

// -log(-log u) for u = (word + 1/2) / 2^32, within 3e-6 of it.
template <class Simd>
inline typename Simd::Vector gumbel(typename Simd::Words words) {
  using Vector = typename Simd::Vector;
  using Ints = typename Simd::Ints;
  using Words = typename Simd::Words;
  // Halves, because few CPUs convert unsigned integers; rounded once.
  const auto fraction = [](Words w) {
    const Vector high = __builtin_convertvector(bits_as<Ints>(w >> 16), Vector);
    const Vector low = __builtin_convertvector(bits_as<Ints>(w & 0xffffu), Vector);
    return (high * 0x1p-16f) + (low + 0.5f) * 0x1p-32f;
  };
  const Vector u = fraction(words);
  LogParts<Simd> parts = log_parts<Simd>(u);
  // Close to 1 the distance to it counts, which u itself is too coarse for.
  const Ints close = u > Simd::broadcast(0.70710678f);
  const Vector f = -fraction(~words);
  parts.f = bits_as<Vector>((bits_as<Ints>(f) & close) | (bits_as<Ints>(parts.f) & ~close));
  parts.exponent = bits_as<Vector>(bits_as<Ints>(parts.exponent) & ~close);
  parts = log_parts<Simd>(-log_of_parts<Simd>(parts.f, parts.exponent));
  return -log_of_parts<Simd>(parts.f, parts.exponent);
}

}  // namespace
}  // namespace vqgan_fast
