#include "kernels/cpu/transpose.h"

#include <cstdint>
#include <cstring>
#include <utility>

namespace vqgan_fast {
namespace {

template <class T>
struct Vector {
  static constexpr int kSize = 16 / sizeof(T);
  typedef T Type __attribute__((vector_size(16)));

  // The elements of two vectors in turn: of their first halves, or from element kSize / 2 on, of
  // their second.
  template <int kFirst>
  static Type interleave(Type a, Type b) {
    return shuffle<kFirst>(a, b, std::make_integer_sequence<int, kSize>());
  }

 private:
  template <int kFirst, int... kLanes>
  static Type shuffle(Type a, Type b, std::integer_sequence<int, kLanes...>) {
    return __builtin_shufflevector(a, b, (kFirst + kLanes / 2 + kLanes % 2 * kSize)...);
  }
};

// One square of kSize x kSize from element j on: interleaving line i with line i + kSize / 2,
// log2(kSize) times over, turns it.
template <class T>
void transpose_square(const void* const* lines, int64_t j, T* to, int64_t to_stride) {
  using V = Vector<T>;
  constexpr int n = V::kSize;
  typename V::Type a[n], b[n];
  for (int i = 0; i < n; ++i) std::memcpy(&a[i], static_cast<const T*>(lines[i]) + j, 16);
  for (int step = 1; step < n; step *= 2) {
    for (int i = 0; i < n / 2; ++i) {
      b[2 * i] = V::template interleave<0>(a[i], a[i + n / 2]);
      b[2 * i + 1] = V::template interleave<n / 2>(a[i], a[i + n / 2]);
    }
    for (int i = 0; i < n; ++i) a[i] = b[i];
  }
  for (int i = 0; i < n; ++i) std::memcpy(to + i * to_stride, &a[i], 16);
}

template <class T>
void transpose_as(const void* const* lines, int64_t num_lines, int64_t length, void* result,
                  int64_t to_stride) {
  constexpr int64_t n = Vector<T>::kSize;
  const int64_t whole_lines = num_lines / n * n;
  const int64_t whole_length = length / n * n;
  T* to = static_cast<T*>(result);
  // Whichever side lies far apart is gone through in order, so that few lines of the cache are in
  // use at a time: columns of an image may all fall on the same few places of it.
  constexpr int64_t kFarBytes = 512;
  if (to_stride * static_cast<int64_t>(sizeof(T)) > kFarBytes) {
    for (int64_t j = 0; j < whole_length; j += n) {
      for (int64_t i = 0; i < whole_lines; i += n) {
        transpose_square(lines + i, j, to + j * to_stride + i, to_stride);
      }
    }
  } else {
    for (int64_t i = 0; i < whole_lines; i += n) {
      for (int64_t j = 0; j < whole_length; j += n) {
        transpose_square(lines + i, j, to + j * to_stride + i, to_stride);
      }
    }
  }
  for (int64_t j = 0; j < length; ++j) {
    for (int64_t i = j < whole_length ? whole_lines : 0; i < num_lines; ++i) {
      std::memcpy(to + j * to_stride + i, static_cast<const T*>(lines[i]) + j, sizeof(T));
    }
  }
}

}  // namespace

void transpose(int64_t element_bytes, const void* const* lines, int64_t num_lines, int64_t length,
               void* to, int64_t to_stride) {
  switch (element_bytes) {
    case 2:
      return transpose_as<uint16_t>(lines, num_lines, length, to, to_stride);
    case 4:
      return transpose_as<uint32_t>(lines, num_lines, length, to, to_stride);
    default:
      return transpose_as<uint64_t>(lines, num_lines, length, to, to_stride);
  }
}

}  // namespace vqgan_fast
