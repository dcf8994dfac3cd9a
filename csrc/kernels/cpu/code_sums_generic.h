// The loops of code_sums.h in the compilers' own vectors: each SIMD level includes this and is
// compiled with its own flags, so everything is in an anonymous namespace.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/cpu/code_sums.h"
#include "kernels/cpu/double_vectors.h"

namespace vqgan_fast {
namespace {

template <int64_t kValue>
using Constant = std::integral_constant<int64_t, kValue>;

// Of 4 columns, where kMost is the level's.
template <int64_t kMost>
constexpr int64_t kFewLanes = std::min<int64_t>(kMost, 4);

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
template <class E, int64_t kLanes, int64_t kVectors>
void add_row_columns(const typename E::Storage* z, const int64_t* offsets, int64_t num_rows,
                     bool is_first, double* sums) {
  constexpr int64_t kLine = 64 / sizeof(typename E::Storage);
  Doubles<kLanes> total[kVectors];
  for (int64_t v = 0; v < kVectors; ++v) {
    total[v] = is_first ? Doubles<kLanes>{} : Vector<Fp64, kLanes>::load(sums + v * kLanes);
  }
  for (int64_t r = 0; r < num_rows; ++r) {
    const auto* row = z + offsets[r];
    const auto* later = z + offsets[r + CodeSums::kRowsAhead];
    for (int64_t c = 0; c < kVectors * kLanes; c += kLine) __builtin_prefetch(later + c, 0, 2);
    for (int64_t v = 0; v < kVectors; ++v) total[v] += Vector<E, kLanes>::load(row + v * kLanes);
  }
  for (int64_t v = 0; v < kVectors; ++v) {
    Vector<Fp64, kLanes>::store(total[v], sums + v * kLanes);
  }
}

// The rows at the first num_rows offsets are added to `sums`, which counts as 0 if they are the
// code's first.
template <class E, int64_t kMost>
void add_block(const typename E::Storage* z, const int64_t* offsets, int64_t num_rows,
               int64_t columns, bool is_first, double* sums) {
  int64_t c = 0;
  const auto add = [&](auto lanes, auto vectors) {
    add_row_columns<E, lanes, vectors>(z + c, offsets, num_rows, is_first, sums + c);
    c += lanes * vectors;
  };
  constexpr Constant<kMost> lanes;
  while (c + 8 * lanes <= columns) add(lanes, Constant<8>());
  if (c + 4 * lanes <= columns) add(lanes, Constant<4>());
  if (c + 2 * lanes <= columns) add(lanes, Constant<2>());
  if (c + lanes <= columns) add(lanes, Constant<1>());
  constexpr Constant<kFewLanes<kMost>> few;
  if (c + few <= columns) add(few, Constant<1>());
  for (; c < columns; ++c) {
    double total = is_first ? 0.0 : sums[c];
    for (int64_t r = 0; r < num_rows; ++r) total += E::load(z[offsets[r] + c]);
    sums[c] = total;
  }
}

// A few whole vectors of columns: every code's first row, then what further rows some have. Codes
// of one row and of more follow each other as they come, and a branch on it would be foreseen too
// seldom.
template <class E, int64_t kLanes, int64_t kVectors>
void add_narrow_rows(const typename E::Storage* z, const int64_t* offsets, const int64_t* first,
                     int64_t num_groups, double* sums) {
  constexpr int64_t kColumns = kVectors * kLanes, kGroups = 64;
  for (int64_t begin = 0; begin < num_groups; begin += kGroups) {
    const int64_t end = std::min(begin + kGroups, num_groups);
    int64_t longer[kGroups], num_longer = 0;
    for (int64_t g = begin; g < end; ++g) {
      add_row_columns<E, kLanes, kVectors>(z, offsets + first[g], 1, true, sums + g * kColumns);
      longer[num_longer] = g;
      num_longer += first[g + 1] - first[g] > 1;
    }
    for (int64_t i = 0; i < num_longer; ++i) {
      const int64_t g = longer[i], row = first[g] + 1;
      add_row_columns<E, kLanes, kVectors>(z, offsets + row, first[g + 1] - row, false,
                                           sums + g * kColumns);
    }
  }
}

template <class E, int64_t kMost>
void add_rows(const void* latents, const int64_t* offsets, const int64_t* first, int64_t num_groups,
              int64_t columns, double* sums) {
  // Rows whose columns are gone through together: they stay in L1.
  constexpr int64_t kBlockRows = 16;
  const auto* z = static_cast<const typename E::Storage*>(latents);
  if (columns == 4) {
    constexpr int64_t kLanes = kFewLanes<kMost>;
    return add_narrow_rows<E, kLanes, 4 / kLanes>(z, offsets, first, num_groups, sums);
  }
  if (columns == 8) {
    return add_narrow_rows<E, kMost, 8 / kMost>(z, offsets, first, num_groups, sums);
  }
  for (int64_t g = 0; g < num_groups; ++g, sums += columns) {
    for (int64_t i = first[g]; i < first[g + 1]; i += kBlockRows) {
      const int64_t count = std::min(kBlockRows, first[g + 1] - i);
      add_block<E, kMost>(z, offsets + i, count, columns, i == first[g], sums);
    }
  }
}

// kLanes rows of kVectors kLanes columns: squares of a register's width, turned in registers. A
// level can have its own for its widest.
template <class E, int64_t kLanes, int64_t kVectors>
class Square {
 public:
  Square(const typename E::Storage* z, int64_t column_stride) {
    for (int64_t v = 0; v < kVectors; ++v) {
      for (int64_t i = 0; i < kLanes; ++i) {
        rows_[v][i] = Vector<E, kLanes>::load(z + (v * kLanes + i) * column_stride);
      }
      turn_square(rows_[v]);
    }
  }

  // The v-th kLanes columns of a row.
  Doubles<kLanes> part(int64_t row, int64_t v) const { return rows_[v][row]; }

 private:
  Doubles<kLanes> rows_[kVectors][kLanes];
};

template <int64_t kLanes, int64_t kVectors, class S>
inline __attribute__((always_inline)) void add_square(const S& square, const int32_t* group,
                                                      int64_t columns, double* sums) {
  using Sums = Vector<Fp64, kLanes>;
  // Rows of one code would wait for each other's sums to come back from memory.
  if (group[0] == group[kLanes - 1] && std::count(group, group + kLanes, group[0]) == kLanes) {
    double* sum = sums + group[0] * columns;
    for (int64_t v = 0; v < kVectors; ++v) {
      Doubles<kLanes> total = Sums::load(sum + v * kLanes);
      for (int64_t i = 0; i < kLanes; ++i) total += square.part(i, v);
      Sums::store(total, sum + v * kLanes);
    }
    return;
  }
  for (int64_t i = 0; i < kLanes; ++i) {
    double* sum = sums + group[i] * columns;
    for (int64_t v = 0; v < kVectors; ++v) {
      Sums::store(Sums::load(sum + v * kLanes) + square.part(i, v), sum + v * kLanes);
    }
  }
}

// kColumns columns of so many rows as a line of them holds, or fewer. `columns` lie between the
// sums of two codes.
template <class E, int64_t kMost, int64_t kColumns>
inline __attribute__((always_inline)) void add_line(const typename E::Storage* z,
                                                    int64_t column_stride,
                                                    const typename E::Storage* later,
                                                    const int32_t* group, int64_t num_rows,
                                                    int64_t columns, double* sums) {
  for (int64_t c = 0; c < kColumns; ++c) __builtin_prefetch(later + c * column_stride);
  int64_t r = 0;
  const auto squares = [&](auto lanes) {
    for (; r + lanes <= num_rows; r += lanes) {
      const Square<E, lanes, kColumns / lanes> square(z + r, column_stride);
      add_square<lanes, kColumns / lanes>(square, group + r, columns, sums);
    }
  };
  squares(Constant<std::min(kMost, kColumns)>());
  squares(Constant<std::min(kFewLanes<kMost>, kColumns)>());
  squares(Constant<1>());
}

template <class E, int64_t kMost>
void add_columns(const void* latents, int64_t column_stride, const void* later,
                 const int32_t* group, int64_t num_rows, int64_t columns, double* sums) {
  // Rows that are gone through together: a line of each column, as columns may lie so that few of
  // their lines fit into L1 at a time.
  constexpr int64_t kLine = 64 / sizeof(typename E::Storage);
  const auto* z = static_cast<const typename E::Storage*>(latents);
  const auto* ahead = static_cast<const typename E::Storage*>(later);
  for (int64_t first = 0; first < num_rows; first += kLine) {
    const int64_t count = std::min(kLine, num_rows - first);
    const auto add = [&](auto some, int64_t c, int64_t stride) {
      const int64_t at = c * column_stride + first;
      add_line<E, kMost, some>(z + at, column_stride, ahead + at, group + first, count, stride,
                               sums + c);
    };
    // A number that the compiler knows: no product for each row.
    if (columns == CodeSums::kColumnsOfLine) {
      add(Constant<CodeSums::kColumnsOfLine>(), 0, CodeSums::kColumnsOfLine);
      continue;
    }
    int64_t c = 0;
    for (; c + 4 <= columns; c += 4) add(Constant<4>(), c, columns);
    for (; c < columns; ++c) add(Constant<1>(), c, columns);
  }
}

template <class E, int64_t kMost>
void store_sums(const double* sums, const int64_t* codes, int64_t num_groups, int64_t columns,
                void* result, int64_t stride) {
  auto* out = static_cast<typename E::Storage*>(result);
  for (int64_t g = 0; g < num_groups; ++g, sums += columns) {
    auto* to = out + codes[g] * stride;
    int64_t c = 0;
    for (; c + kMost <= columns; c += kMost) {
      Vector<E, kMost>::store(Vector<Fp64, kMost>::load(sums + c), to + c);
    }
    for (; c < columns; ++c) to[c] = E::store(sums[c]);
  }
}

template <class E, int64_t kMost>
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
    for (; c + kMost <= columns; c += kMost) {
      const Doubles<kMost> sum = Vector<Fp64, kMost>::load(sums + c);
      Vector<E, kMost>::store(scale * (count * Vector<E, kMost>::load(from + c) - sum), to + c);
    }
    for (; c < columns; ++c) {
      const double x = E::load(from[c]);
      to[c] = E::store(scale * (count * x - sums[c]));
    }
  }
}

template <int64_t kMost, class... Elements>
constexpr CodeSums make_sums_of() {
  CodeSums loops{};
  loops.list_groups = list_groups;
  ((loops.add_rows[static_cast<int>(Elements::kType)] = add_rows<Elements, kMost>), ...);
  ((loops.add_columns[static_cast<int>(Elements::kType)] = add_columns<Elements, kMost>), ...);
  ((loops.store_sums[static_cast<int>(Elements::kType)] = store_sums<Elements, kMost>), ...);
  ((loops.store_gradients[static_cast<int>(Elements::kType)] = store_gradients<Elements, kMost>),
   ...);
  return loops;
}

// kMost: the lanes of a level's widest vectors of doubles.
template <int64_t kMost>
constexpr CodeSums make_sums() {
  return make_sums_of<kMost, Fp32, Fp64, Bf16, Fp16>();
}

}  // namespace
}  // namespace vqgan_fast
