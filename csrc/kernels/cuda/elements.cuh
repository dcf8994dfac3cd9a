// One element at a time, of any dtype, as a double. The dtype is a run-time value that all threads
// share: one instantiation of each kernel instead of one for every pair of dtypes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/rows.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tiling.h"

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

// An element in two steps, so that what loads it has not to wait for it: its bits, and what they
// stand for.
__device__ inline uint64_t load_bits(const void* data, DType dtype, int64_t offset) {
  switch (dtype) {
    case DType::kFloat64:
      return static_cast<const uint64_t*>(data)[offset];
    case DType::kFloat32:
      return static_cast<const uint32_t*>(data)[offset];
    default:
      return static_cast<const uint16_t*>(data)[offset];
  }
}
__device__ inline double element_of_bits(uint64_t bits, DType dtype) {
  switch (dtype) {
    case DType::kFloat64: {
      double value;
      memcpy(&value, &bits, sizeof value);
      return value;
    }
    case DType::kBFloat16:
      return load_bfloat16(static_cast<uint16_t>(bits));
    case DType::kFloat16:
      return load_float16(static_cast<uint16_t>(bits));
    default:
      return float_of_bits(static_cast<uint32_t>(bits));
  }
}

__device__ inline double load_element(const void* data, DType dtype, int64_t offset) {
  return element_of_bits(load_bits(data, dtype, offset), dtype);
}

// The same two steps as fp32, for types that fit: not for fp64.
__device__ inline uint32_t load_word(const void* data, DType dtype, int64_t offset) {
  if (dtype == DType::kFloat32) return static_cast<const uint32_t*>(data)[offset];
  return static_cast<const uint16_t*>(data)[offset];
}
__device__ inline float float_of_word(uint32_t word, DType dtype) {
  switch (dtype) {
    case DType::kBFloat16:
      return float_of_bits(word << 16);
    case DType::kFloat16:
      return ptx::from_half(static_cast<uint16_t>(word));
    default:
      return float_of_bits(word);
  }
}

__device__ inline float load_float(const void* data, DType dtype, int64_t offset) {
  return float_of_word(load_word(data, dtype, offset), dtype);
}

// Eight elements as they lie in memory, in as many words as they take: what loads them has not to
// wait for them. `aligned`: one or two loads of 16 bytes may take them (eights_allowed).
__device__ inline void load_eight_words(const Rows& rows, int64_t offset, bool aligned,
                                        uint32_t (&words)[8]) {
  if (rows.dtype == DType::kFloat32) {
    const float* data = static_cast<const float*>(rows.data) + offset;
    if (aligned) {
      const uint4 a = reinterpret_cast<const uint4*>(data)[0];
      const uint4 b = reinterpret_cast<const uint4*>(data)[1];
      words[0] = a.x, words[1] = a.y, words[2] = a.z, words[3] = a.w;
      words[4] = b.x, words[5] = b.y, words[6] = b.z, words[7] = b.w;
      return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) words[i] = bits_of_float(data[i * rows.element_stride]);
    return;
  }
  const uint16_t* data = static_cast<const uint16_t*>(rows.data) + offset;
  if (aligned) {
    const uint4 bits = *reinterpret_cast<const uint4*>(data);
    words[0] = bits.x, words[1] = bits.y, words[2] = bits.z, words[3] = bits.w;
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    words[i] = data[2 * i * rows.element_stride] |
               static_cast<uint32_t>(data[(2 * i + 1) * rows.element_stride]) << 16;
  }
}

// Element i of them.
__device__ inline float float_of_words(const uint32_t (&words)[8], int i, DType dtype) {
  if (dtype == DType::kFloat32) return float_of_bits(words[i]);
  const uint32_t word = words[i / 2];
  if (dtype == DType::kBFloat16) return float_of_bits(i % 2 == 0 ? word << 16 : word & 0xffff0000u);
  return ptx::from_half(static_cast<uint16_t>(i % 2 == 0 ? word & 0xffffu : word >> 16));
}

__device__ inline void load_eight_floats(const Rows& rows, int64_t offset, bool aligned,
                                         float (&x)[8]) {
  uint32_t words[8];
  load_eight_words(rows, offset, aligned, words);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = float_of_words(words, i, rows.dtype);
}

// Whether every row begins where those loads may be told `aligned`.
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

__device__ inline double load_at(const Rows& rows, int64_t row, int64_t column) {
  return load_element(rows.data, rows.dtype, row_offset(rows, row) + column * rows.element_stride);
}

__device__ inline void store_at(const Rows& rows, int64_t row, int64_t column, double value) {
  store_element(const_cast<void*>(rows.data), rows.dtype,
                row_offset(rows, row) + column * rows.element_stride, value);
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
