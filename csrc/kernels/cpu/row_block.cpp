#include "kernels/cpu/row_block.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace vqgan_fast {
namespace {

float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// One struct for each element type: how it lies in memory and how it becomes a double and back.
struct Fp64 {
  using Storage = double;
  static double load(double x) { return x; }
  static double store(double x) { return x; }
};

struct Fp32 {
  using Storage = float;
  static double load(float x) { return x; }
  static float store(double x) { return static_cast<float>(x); }
};

struct Bf16 {
  using Storage = uint16_t;
  static double load(uint16_t x) { return float_of_bits(static_cast<uint32_t>(x) << 16); }
  static uint16_t store(double x) {
    const uint32_t bits = bits_of_float(static_cast<float>(x));
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
  }
};

struct Fp16 {
  using Storage = uint16_t;
  static double load(uint16_t x) {
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
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and above
    if (magnitude < 0x38800000u) {
      // Below 2^-14 fp16 counts in steps of 2^-24, which is what fp32 does from 0.5 to 1.
      const float rounded = float_of_bits(magnitude) + 0.5f;
      return static_cast<uint16_t>(sign | (bits_of_float(rounded) - bits_of_float(0.5f)));
    }
    magnitude += 0xfffu + ((magnitude >> 13) & 1);
    return static_cast<uint16_t>(sign | ((magnitude - (112u << 23)) >> 13));
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

// Calls body(first_row, num_rows, first_column, num_columns) on tiles of the block. Where the
// elements of a row are far apart, tiles are a cache line of rows by as many columns, so that each
// line is touched once; where they are neighbours, a tile is one row.
template <class Body>
void for_each_tile(const Rows& rows, int64_t count, int64_t dim, const Body& body) {
  constexpr int64_t kTile = 16;
  const int64_t tile_rows = rows.element_stride == 1 ? 1 : kTile;
  const int64_t tile_columns = rows.element_stride == 1 ? dim : kTile;
  for (int64_t r = 0; r < count; r += tile_rows) {
    for (int64_t d = 0; d < dim; d += tile_columns) {
      body(r, std::min(tile_rows, count - r), d, std::min(tile_columns, dim - d));
    }
  }
}

// Offsets of up to 16 rows.
struct Offsets {
  int64_t of[16];
  Offsets(const Rows& rows, int64_t begin, int64_t count) {
    for (int64_t r = 0; r < count; ++r) of[r] = rows.offset(begin + r);
  }
};

}  // namespace

void load_rows(const Rows& rows, int64_t begin, int64_t count, int64_t dim, double* block) {
  with_element(rows.dtype, [&](auto element) {
    using E = decltype(element);
    const auto* data = static_cast<const typename E::Storage*>(rows.data);
    const int64_t stride = rows.element_stride;
    for_each_tile(rows, count, dim, [&](int64_t r0, int64_t nr, int64_t d0, int64_t nd) {
      const Offsets offsets(rows, begin + r0, nr);
      if (stride == 1) {
        const auto* from = data + offsets.of[0] + d0;
        double* to = block + r0 * dim + d0;
        for (int64_t d = 0; d < nd; ++d) to[d] = E::load(from[d]);
        return;
      }
      for (int64_t r = 0; r < nr; ++r) {
        const auto* from = data + offsets.of[r] + d0 * stride;
        double* to = block + (r0 + r) * dim + d0;
        for (int64_t d = 0; d < nd; ++d) to[d] = E::load(from[d * stride]);
      }
    });
  });
}

void store_rows(const Rows& rows, int64_t begin, int64_t count, int64_t dim, const double* block) {
  with_element(rows.dtype, [&](auto element) {
    using E = decltype(element);
    auto* data = static_cast<typename E::Storage*>(const_cast<void*>(rows.data));
    const int64_t stride = rows.element_stride;
    for_each_tile(rows, count, dim, [&](int64_t r0, int64_t nr, int64_t d0, int64_t nd) {
      const Offsets offsets(rows, begin + r0, nr);
      for (int64_t r = 0; r < nr; ++r) {
        auto* to = data + offsets.of[r] + d0 * stride;
        const double* from = block + (r0 + r) * dim + d0;
        for (int64_t d = 0; d < nd; ++d) to[d * stride] = E::store(from[d]);
      }
    });
  });
}

void load_columns(const Rows& rows, int64_t row, int64_t first_column, int64_t num_columns,
                  double* out) {
  with_element(rows.dtype, [&](auto element) {
    using E = decltype(element);
    const int64_t stride = rows.element_stride;
    const auto* from = static_cast<const typename E::Storage*>(rows.data) + rows.offset(row) +
                       first_column * stride;
    for (int64_t d = 0; d < num_columns; ++d) out[d] = E::load(from[d * stride]);
  });
}

void add_columns(const Rows& rows, int64_t row, int64_t first_column, int64_t num_columns,
                 double* sums) {
  with_element(rows.dtype, [&](auto element) {
    using E = decltype(element);
    const int64_t stride = rows.element_stride;
    const auto* from = static_cast<const typename E::Storage*>(rows.data) + rows.offset(row) +
                       first_column * stride;
    if (stride == 1) {
      for (int64_t d = 0; d < num_columns; ++d) sums[d] += E::load(from[d]);
    } else {
      for (int64_t d = 0; d < num_columns; ++d) sums[d] += E::load(from[d * stride]);
    }
  });
}

void store_columns(const Rows& rows, int64_t row, int64_t first_column, int64_t num_columns,
                   const double* in) {
  with_element(rows.dtype, [&](auto element) {
    using E = decltype(element);
    const int64_t stride = rows.element_stride;
    auto* to = static_cast<typename E::Storage*>(const_cast<void*>(rows.data)) + rows.offset(row) +
               first_column * stride;
    for (int64_t d = 0; d < num_columns; ++d) to[d * stride] = E::store(in[d]);
  });
}

void prefetch_columns(const Rows& rows, int64_t row, int64_t first_column, int64_t num_columns) {
  with_element(rows.dtype, [&](auto element) {
    using Storage = typename decltype(element)::Storage;
    constexpr int64_t kLine = 64 / sizeof(Storage);
    const int64_t stride = rows.element_stride;
    const auto* from =
        static_cast<const Storage*>(rows.data) + rows.offset(row) + first_column * stride;
    const int64_t step = stride == 1 ? kLine : 1;
    for (int64_t d = 0; d < num_columns; d += step) __builtin_prefetch(from + d * stride);
  });
}

bool all_finite(const double* x, int64_t dim) {
  // One infinity or NaN among the products makes the sum a NaN.
  double acc = 0.0;
  for (int64_t d = 0; d < dim; ++d) acc += x[d] * 0.0;
  return acc == 0.0;
}

double round_to(DType dtype, double value) {
  double rounded = value;
  with_element(dtype, [&](auto element) {
    using E = decltype(element);
    rounded = E::load(E::store(value));
  });
  return rounded;
}

}  // namespace vqgan_fast
