// One element at a time, of any dtype, as a double. The dtype is a run-time value that all threads
// share: one instantiation of each kernel instead of one for every pair of dtypes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/rows.h"
#include "kernels/cuda/ptx.cuh"

namespace vqgan_fast {

__device__ inline float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

__device__ inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

__device__ inline double load_bfloat16(uint16_t x) {
  return float_of_bits(static_cast<uint32_t>(x) << 16);
}

__device__ inline uint16_t store_bfloat16(float value) {
  const uint32_t bits = bits_of_float(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

__device__ inline double load_float16(uint16_t x) {
  const uint32_t sign = (x & 0x8000u) << 16;
  const uint32_t magnitude = x & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of_bits(sign | 0x7f800000u | (magnitude << 13));
  // Exponent and mantissa moved to their place in fp32 are the value times 2^-112, subnormals too.
  const double value = static_cast<double>(float_of_bits(magnitude << 13)) * 0x1p112;
  return sign ? -value : value;
}

__device__ inline uint16_t store_float16(float value) {
  const uint32_t bits = bits_of_float(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and above
  if (magnitude < 0x38800000u) {
    // Below 2^-14 fp16 counts in steps of 2^-24, which is what fp32 does from 0.5 to 1.
    const float rounded = float_of_bits(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (bits_of_float(rounded) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

__device__ inline double load_element(const void* data, DType dtype, int64_t offset) {
  switch (dtype) {
    case DType::kFloat64:
      return static_cast<const double*>(data)[offset];
    case DType::kBFloat16:
      return load_bfloat16(static_cast<const uint16_t*>(data)[offset]);
    case DType::kFloat16:
      return load_float16(static_cast<const uint16_t*>(data)[offset]);
    default:
      return static_cast<const float*>(data)[offset];
  }
}

// The same as fp32, for types that fit: not for fp64.
__device__ inline float load_float(const void* data, DType dtype, int64_t offset) {
  switch (dtype) {
    case DType::kBFloat16:
      return float_of_bits(static_cast<uint32_t>(static_cast<const uint16_t*>(data)[offset]) << 16);
    case DType::kFloat16:
      return ptx::from_half(static_cast<const uint16_t*>(data)[offset]);
    default:
      return static_cast<const float*>(data)[offset];
  }
}

// Eight of them. `aligned`: one or two loads of 16 bytes may take them (eights_allowed).
__device__ inline void load_eight_floats(const Rows& rows, int64_t offset, bool aligned,
                                         float (&x)[8]) {
  if (!aligned) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      x[i] = load_float(rows.data, rows.dtype, offset + i * rows.element_stride);
    }
    return;
  }
  if (rows.dtype == DType::kFloat32) {
    const float4* four =
        reinterpret_cast<const float4*>(static_cast<const float*>(rows.data) + offset);
    const float4 a = four[0];
    const float4 b = four[1];
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
    x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    return;
  }
  const uint4 bits =
      *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(rows.data) + offset);
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool brain = rows.dtype == DType::kBFloat16;
    x[2 * i] = brain ? float_of_bits(words[i] << 16)
                     : ptx::from_half(static_cast<uint16_t>(words[i] & 0xffffu));
    x[2 * i + 1] = brain ? float_of_bits(words[i] & 0xffff0000u)
                         : ptx::from_half(static_cast<uint16_t>(words[i] >> 16));
  }
}

// Whether every row begins where load_eight_floats may be told `aligned`.
inline bool eights_allowed(const Rows& rows) {
  const int64_t per_16_bytes = rows.dtype == DType::kFloat32 ? 4 : 8;
  return rows.dtype != DType::kFloat64 && rows.element_stride == 1 &&
         rows.inner_stride % per_16_bytes == 0 && rows.outer_stride % per_16_bytes == 0 &&
         reinterpret_cast<uintptr_t>(rows.data) % 16 == 0;
}

// Rounds to nearest even; to a 16-bit type by way of fp32, as torch does.
__device__ inline void store_element(void* data, DType dtype, int64_t offset, double value) {
  switch (dtype) {
    case DType::kFloat64:
      static_cast<double*>(data)[offset] = value;
      return;
    case DType::kBFloat16:
      static_cast<uint16_t*>(data)[offset] = store_bfloat16(static_cast<float>(value));
      return;
    case DType::kFloat16:
      static_cast<uint16_t*>(data)[offset] = store_float16(static_cast<float>(value));
      return;
    default:
      static_cast<float*>(data)[offset] = static_cast<float>(value);
  }
}

__device__ inline double round_to(DType dtype, double value) {
  switch (dtype) {
    case DType::kFloat64:
      return value;
    case DType::kBFloat16:
      return load_bfloat16(store_bfloat16(static_cast<float>(value)));
    case DType::kFloat16:
      return load_float16(store_float16(static_cast<float>(value)));
    default:
      return static_cast<float>(value);
  }
}

}  // namespace vqgan_fast
