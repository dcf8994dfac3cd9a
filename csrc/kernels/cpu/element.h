// One struct for each element type: how it lies in memory, and how it becomes a float or double and
// back. Everything is in an anonymous namespace, for each file that includes this is compiled for
// its own instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/rows.h"

namespace vqgan_fast {
namespace {

inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// `Exact` holds every value of the type.
struct Fp64 {
  static constexpr DType kType = DType::kFloat64;
  using Storage = double;
  using Exact = double;
  static double load(double x) { return x; }
  static double store(double x) { return x; }
};

struct Fp32 {
  static constexpr DType kType = DType::kFloat32;
  using Storage = float;
  using Exact = float;
  static float load(float x) { return x; }
  static float store(double x) { return static_cast<float>(x); }
};

struct Bf16 {
  static constexpr DType kType = DType::kBFloat16;
  using Storage = uint16_t;
  using Exact = float;
  static float load(uint16_t x) { return float_of_bits(static_cast<uint32_t>(x) << 16); }
  static uint16_t store(double x) {
    const uint32_t bits = bits_of_float(static_cast<float>(x));
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
    return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
  }
};

struct Fp16 {
  static constexpr DType kType = DType::kFloat16;
  using Storage = uint16_t;
  using Exact = float;
  static float load(uint16_t x) {
    const uint32_t sign = (x & 0x8000u) << 16;
    const uint32_t magnitude = x & 0x7fffu;
    // Exponent and mantissa moved to their place in an fp32 give the value times 2^-112, subnormals
    // included; infinities and NaNs keep an all-ones exponent instead.
    const float finite = float_of_bits(magnitude << 13) * 0x1p112f;
    const uint32_t bits =
        magnitude >= 0x7c00u ? 0x7f800000u | (magnitude << 13) : bits_of_float(finite);
    return float_of_bits(bits | sign);
  }
  static uint16_t store(double x) {
    const uint32_t bits = bits_of_float(static_cast<float>(x));
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    // Below 2^-14 fp16 counts in steps of 2^-24, which is what fp32 does from 0.5 to 1.
    const uint32_t small =
        bits_of_float(float_of_bits(magnitude < 0x38800000u ? magnitude : 0u) + 0.5f) -
        bits_of_float(0.5f);
    const uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1) - (112u << 23)) >> 13;
    uint32_t result = magnitude < 0x38800000u ? small : normal;
    if (magnitude >= 0x477ff000u) result = 0x7c00u;  // 65520 and above
    if (magnitude > 0x7f800000u) result = 0x7e00u;
    return static_cast<uint16_t>(sign | result);
  }
};

template <class Body>
void with_element(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(Fp32());
    case DType::kFloat64:
      return body(Fp64());
    case DType::kBFloat16:
      return body(Bf16());
    case DType::kFloat16:
      return body(Fp16());
  }
}

}  // namespace
}  // namespace vqgan_fast
