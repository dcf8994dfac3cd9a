// The loops of code_sums.h in the compilers' own vectors: each SIMD level includes this and is
// compiled with its own flags, so everything is in an anonymous namespace.
#pragma once

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/code_sums.h"
#include "kernels/cpu/element.h"

namespace vqgan_fast {
namespace {

// As wide as the conversions of the level, which compilers would put together from halves.
#ifdef __AVX2__
constexpr int64_t kLanes = 4;
#else
constexpr int64_t kLanes = 2;
#endif
typedef double Doubles __attribute__((vector_size(kLanes * 8), aligned(8), may_alias));
typedef float Floats __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

// kLanes elements as doubles, and back.
template <class E>
struct Vector {
  static Doubles load(const typename E::Storage* from) {
    Doubles x;
    for (int64_t i = 0; i < kLanes; ++i) x[i] = E::load(from[i]);
    return x;
  }
  static void store(const Doubles& x, typename E::Storage* to) {
    for (int64_t i = 0; i < kLanes; ++i) to[i] = E::store(x[i]);
  }
};

template <>
struct Vector<Fp64> {
  static Doubles load(const double* from) { return *reinterpret_cast<const Doubles*>(from); }
  static void store(const Doubles& x, double* to) { *reinterpret_cast<Doubles*>(to) = x; }
};

#ifdef __AVX2__
template <>
struct Vector<Fp32> {
  static Doubles load(const float* from) { return _mm256_cvtps_pd(_mm_loadu_ps(from)); }
  static void store(const Doubles& x, float* to) { _mm_storeu_ps(to, _mm256_cvtpd_ps(x)); }
};

template <>
struct Vector<Bf16> {
  static Doubles load(const uint16_t* from) {
    const __m128i x = _mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
    return _mm256_cvtps_pd(_mm_castsi128_ps(_mm_slli_epi32(x, 16)));
  }
  static void store(const Doubles& x, uint16_t* to) {
    for (int64_t i = 0; i < kLanes; ++i) to[i] = Bf16::store(x[i]);
  }
};

template <>
struct Vector<Fp16> {
  static Doubles load(const uint16_t* from) {
    return _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
  }
  static void store(const Doubles& x, uint16_t* to) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to),
                     _mm_cvtps_ph(_mm256_cvtpd_ps(x), _MM_FROUND_TO_NEAREST_INT));
  }
};
#else
template <>
struct Vector<Fp32> {
  static Doubles load(const float* from) {
    return __builtin_convertvector(*reinterpret_cast<const Floats*>(from), Doubles);
  }
  static void store(const Doubles& x, float* to) {
    *reinterpret_cast<Floats*>(to) = __builtin_convertvector(x, Floats);
  }
};
#endif

// Bit i: whether counts[i] is not 0, for 64 of them.
uint64_t used_of_64(const int64_t* counts) {
  uint64_t used = 0;
#ifdef __AVX2__
  for (int64_t i = 0; i < 64; i += 4) {
    const __m256i four = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(counts + i));
    const __m256d unused = _mm256_castsi256_pd(_mm256_cmpeq_epi64(four, _mm256_setzero_si256()));
    used |= uint64_t(_mm256_movemask_pd(unused) ^ 15) << i;
  }
#else
  for (int64_t i = 0; i < 64; ++i) used |= uint64_t{counts[i] != 0} << i;
#endif
  return used;
}

int64_t list_groups(const int64_t* counts, int64_t num_codes, int64_t* codes, int64_t* first) {
  int64_t num_groups = 0, num_rows = 0;
  const auto add = [&](int64_t code) {
    codes[num_groups] = code;
    first[num_groups++] = num_rows;
    num_rows += counts[code];
  };
  int64_t begin = 0;
  for (; begin + 64 <= num_codes; begin += 64) {
    for (uint64_t used = used_of_64(counts + begin); used != 0; used &= used - 1) {
      add(begin + __builtin_ctzll(used));
    }
  }
  for (; begin < num_codes; ++begin) {
    if (counts[begin] != 0) add(begin);
  }
  return num_groups;
}

// Some columns of some rows, in registers.
template <class E, int64_t kVectors>
void add_columns(const typename E::Storage* z, int64_t row_stride, const int64_t* rows,
                 int64_t num_rows, bool is_first, double* sums) {
  constexpr int64_t kLine = 64 / sizeof(typename E::Storage);
  Doubles total[kVectors];
  for (int64_t v = 0; v < kVectors; ++v) {
    total[v] = is_first ? Doubles{} : Vector<Fp64>::load(sums + v * kLanes);
  }
  for (int64_t r = 0; r < num_rows; ++r) {
    const auto* row = z + rows[r] * row_stride;
    const auto* later = z + rows[r + CodeSums::kRowsAhead] * row_stride;
    for (int64_t c = 0; c < kVectors * kLanes; c += kLine) __builtin_prefetch(later + c);
    for (int64_t v = 0; v < kVectors; ++v) total[v] += Vector<E>::load(row + v * kLanes);
  }
  for (int64_t v = 0; v < kVectors; ++v) Vector<Fp64>::store(total[v], sums + v * kLanes);
}

// Rows rows[0] .. rows[num_rows - 1] are added to `sums`, which counts as 0 if they are the first.
template <class E>
void add_block(const typename E::Storage* z, int64_t row_stride, const int64_t* rows,
               int64_t num_rows, int64_t columns, bool is_first, double* sums) {
  int64_t c = 0;
  const auto add = [&](auto vectors) {
    add_columns<E, vectors>(z + c, row_stride, rows, num_rows, is_first, sums + c);
    c += vectors * kLanes;
  };
  while (c + 8 * kLanes <= columns) add(std::integral_constant<int64_t, 8>());
  if (c + 4 * kLanes <= columns) add(std::integral_constant<int64_t, 4>());
  if (c + 2 * kLanes <= columns) add(std::integral_constant<int64_t, 2>());
  if (c + kLanes <= columns) add(std::integral_constant<int64_t, 1>());
  for (; c < columns; ++c) {
    double total = is_first ? 0.0 : sums[c];
    for (int64_t r = 0; r < num_rows; ++r) total += E::load(z[rows[r] * row_stride + c]);
    sums[c] = total;
  }
}

// A few whole vectors of columns: every code's first row, then what further rows some have. Codes
// of one row and of more follow each other as they come, and a branch on it would be foreseen too
// seldom.
template <class E, int64_t kVectors>
void add_narrow_rows(const typename E::Storage* z, int64_t row_stride, const int64_t* rows,
                     const int64_t* first, int64_t num_groups, double* sums) {
  constexpr int64_t kColumns = kVectors * kLanes, kGroups = 64;
  for (int64_t begin = 0; begin < num_groups; begin += kGroups) {
    const int64_t end = std::min(begin + kGroups, num_groups);
    int64_t longer[kGroups], num_longer = 0;
    for (int64_t g = begin; g < end; ++g) {
      add_columns<E, kVectors>(z, row_stride, rows + first[g], 1, true, sums + g * kColumns);
      longer[num_longer] = g;
      num_longer += first[g + 1] - first[g] > 1;
    }
    for (int64_t i = 0; i < num_longer; ++i) {
      const int64_t g = longer[i], row = first[g] + 1;
      add_columns<E, kVectors>(z, row_stride, rows + row, first[g + 1] - row, false,
                               sums + g * kColumns);
    }
  }
}

template <class E>
void add_rows(const void* latents, int64_t row_stride, const int64_t* rows, const int64_t* first,
              int64_t num_groups, int64_t columns, double* sums) {
  // Rows whose columns are gone through together: they stay in L1.
  constexpr int64_t kBlockRows = 16;
  const auto* z = static_cast<const typename E::Storage*>(latents);
  if (columns == 4) {
    return add_narrow_rows<E, 4 / kLanes>(z, row_stride, rows, first, num_groups, sums);
  }
  if (columns == 8) {
    return add_narrow_rows<E, 8 / kLanes>(z, row_stride, rows, first, num_groups, sums);
  }
  for (int64_t g = 0; g < num_groups; ++g, sums += columns) {
    for (int64_t i = first[g]; i < first[g + 1]; i += kBlockRows) {
      const int64_t count = std::min(kBlockRows, first[g + 1] - i);
      add_block<E>(z, row_stride, rows + i, count, columns, i == first[g], sums);
    }
  }
}

template <class E, int64_t kVectors>
void add_vectors(const typename E::Storage* z, const int64_t* group, int64_t num_rows,
                 double* sums) {
  constexpr int64_t kColumns = kVectors * kLanes;
  for (int64_t r = 0; r < num_rows; ++r) {
    double* sum = sums + group[r] * kColumns;
    for (int64_t v = 0; v < kVectors; ++v) {
      const Doubles x = Vector<E>::load(z + r * kColumns + v * kLanes);
      Vector<Fp64>::store(Vector<Fp64>::load(sum + v * kLanes) + x, sum + v * kLanes);
    }
  }
}

template <class E>
void add_in_order(const void* latents, const int64_t* group, int64_t num_rows, int64_t columns,
                  double* sums) {
  const auto* z = static_cast<const typename E::Storage*>(latents);
  if (columns == 16) return add_vectors<E, 16 / kLanes>(z, group, num_rows, sums);
  if (columns == 8) return add_vectors<E, 8 / kLanes>(z, group, num_rows, sums);
  if (columns == 4) return add_vectors<E, 4 / kLanes>(z, group, num_rows, sums);
  for (int64_t r = 0; r < num_rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      sums[group[r] * columns + c] += E::load(z[r * columns + c]);
    }
  }
}

template <class E>
void store_sums(const double* sums, const int64_t* codes, int64_t num_groups, int64_t columns,
                void* result, int64_t stride) {
  auto* out = static_cast<typename E::Storage*>(result);
  for (int64_t g = 0; g < num_groups; ++g, sums += columns) {
    auto* to = out + codes[g] * stride;
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) {
      Vector<E>::store(Vector<Fp64>::load(sums + c), to + c);
    }
    for (; c < columns; ++c) to[c] = E::store(sums[c]);
  }
}

template <class E>
void store_gradients(const double* sums, const int64_t* codes, const int64_t* first,
                     int64_t num_groups, int64_t columns, double scale, const void* codebook,
                     int64_t e_stride, void* result, int64_t stride) {
  constexpr int64_t kGroupsAhead = 8;
  constexpr int64_t kLine = 64 / sizeof(typename E::Storage);
  const auto* e = static_cast<const typename E::Storage*>(codebook);
  auto* out = static_cast<typename E::Storage*>(result);
  for (int64_t g = 0; g < num_groups; ++g, sums += columns) {
    const auto* later = e + codes[std::min(g + kGroupsAhead, num_groups - 1)] * e_stride;
    for (int64_t c = 0; c < columns; c += kLine) __builtin_prefetch(later + c);
    const auto* from = e + codes[g] * e_stride;
    auto* to = out + codes[g] * stride;
    const double count = static_cast<double>(first[g + 1] - first[g]);
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) {
      const Doubles sum = Vector<Fp64>::load(sums + c);
      Vector<E>::store(scale * (count * Vector<E>::load(from + c) - sum), to + c);
    }
    for (; c < columns; ++c) {
      const double x = E::load(from[c]);
      to[c] = E::store(scale * (count * x - sums[c]));
    }
  }
}

template <class... Elements>
constexpr CodeSums make_sums() {
  CodeSums loops{};
  loops.list_groups = list_groups;
  ((loops.add_rows[static_cast<int>(Elements::kType)] = add_rows<Elements>), ...);
  ((loops.add_in_order[static_cast<int>(Elements::kType)] = add_in_order<Elements>), ...);
  ((loops.store_sums[static_cast<int>(Elements::kType)] = store_sums<Elements>), ...);
  ((loops.store_gradients[static_cast<int>(Elements::kType)] = store_gradients<Elements>), ...);
  return loops;
}

constexpr CodeSums kSums = make_sums<Fp32, Fp64, Bf16, Fp16>();

}  // namespace
}  // namespace vqgan_fast
