// The loops of transpose.h in the compilers' own vectors: each SIMD level includes this and is
// compiled with its own flags, so everything is in an anonymous namespace.
#pragma once

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels/cpu/transpose.h"

namespace vqgan_fast {
namespace {

// As many blocks of 16 bytes as fit into a register of the level.
#ifdef __AVX2__
constexpr int kMostBlocks = 2;
#else
constexpr int kMostBlocks = 1;
#endif

template <class T, int kBlocks>
struct Vector {
  // Elements of a block, and of all.
  static constexpr int kSize = 16 / sizeof(T), kAll = kBlocks * kSize;
  typedef T Type __attribute__((vector_size(16 * kBlocks)));
  typedef T InMemory __attribute__((vector_size(16 * kBlocks), aligned(1), may_alias));

  // Elements j .. j + kSize - 1 of line 0, in the next block of line kSize.
  static Type load(const T* const* lines, int64_t j) {
#ifdef __AVX2__
    if constexpr (kBlocks == 2) {
      const auto block = [&](int line) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(lines[line] + j));
      };
      return reinterpret_cast<Type>(
          _mm256_inserti128_si256(_mm256_castsi128_si256(block(0)), block(kSize), 1));
    }
#endif
    return *reinterpret_cast<const InMemory*>(lines[0] + j);
  }

  // In each block, the elements of two vectors in turn: of their first halves, or from element
  // kSize / 2 on, of their second.
  template <int kFirst>
  static Type interleave(Type a, Type b) {
    return shuffle<kFirst>(a, b, std::make_integer_sequence<int, kAll>());
  }

 private:
  template <int kFirst, int... kLanes>
  static Type shuffle(Type a, Type b, std::integer_sequence<int, kLanes...>) {
    return __builtin_shufflevector(
        a, b, (kLanes / kSize * kSize + kFirst + kLanes % kSize / 2 + kLanes % 2 * kAll)...);
  }
};

// The elements from j on of kBlocks * kSize lines, kSize of each: interleaving line i with line
// i + kSize / 2, log2(kSize) times over, turns the square in each block.
template <class T, int kBlocks>
inline __attribute__((always_inline)) void transpose_squares(const T* const* lines, int64_t j,
                                                             T* to, int64_t to_stride) {
  using V = Vector<T, kBlocks>;
  constexpr int n = V::kSize;
  typename V::Type a[n], b[n];
  for (int i = 0; i < n; ++i) a[i] = V::load(lines + i, j);
  for (int step = 1; step < n; step *= 2) {
    for (int i = 0; i < n / 2; ++i) {
      b[2 * i] = V::template interleave<0>(a[i], a[i + n / 2]);
      b[2 * i + 1] = V::template interleave<n / 2>(a[i], a[i + n / 2]);
    }
    for (int i = 0; i < n; ++i) a[i] = b[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < n; ++i) {
    *reinterpret_cast<typename V::InMemory*>(to + i * to_stride) = a[i];
  }
}

template <class T>
void transpose_as(const void* const* lines, int64_t num_lines, int64_t length, void* result,
                  int64_t to_stride) {
  constexpr int64_t n = Vector<T, 1>::kSize;
  const int64_t whole_lines = num_lines / n * n;
  const int64_t whole_length = length / n * n;
  T* to = static_cast<T*>(result);
  // Whichever side lies far apart is gone through in order, so that few lines of the cache are in
  // use at a time: columns of an image may all fall on the same few places of it.
  constexpr int64_t kFarBytes = 512;
  const bool far = to_stride * static_cast<int64_t>(sizeof(T)) > kFarBytes;
  const auto turn = [&](auto blocks, int64_t first_line, int64_t last_line) {
    constexpr int64_t step = blocks * n;
    const auto squares = [&](int64_t i, int64_t begin, int64_t end) {
      const T* some[step];
      for (int64_t line = 0; line < step; ++line)
        some[line] = static_cast<const T*>(lines[i + line]);
      for (int64_t j = begin; j < end; j += n) {
        transpose_squares<T, blocks>(some, j, to + j * to_stride + i, to_stride);
      }
    };
    const int64_t at_once = far ? n : whole_length;
    for (int64_t j = 0; j < whole_length; j += at_once) {
      for (int64_t i = first_line; i < last_line; i += step) squares(i, j, j + at_once);
    }
  };
  const int64_t wide_lines = num_lines / (kMostBlocks * n) * (kMostBlocks * n);
  turn(std::integral_constant<int, kMostBlocks>(), 0, wide_lines);
  turn(std::integral_constant<int, 1>(), wide_lines, whole_lines);
  for (int64_t j = 0; j < length; ++j) {
    for (int64_t i = j < whole_length ? whole_lines : 0; i < num_lines; ++i) {
      std::memcpy(to + j * to_stride + i, static_cast<const T*>(lines[i]) + j, sizeof(T));
    }
  }
}

constexpr TransposeLoops kTransposes = {transpose_as<uint16_t>, transpose_as<uint32_t>,
                                        transpose_as<uint64_t>};

}  // namespace
}  // namespace vqgan_fast
