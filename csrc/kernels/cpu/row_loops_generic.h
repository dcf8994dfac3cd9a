// The loops of row_loops.h, written for a compiler to vectorise: each SIMD level includes this and
// is compiled with its own flags, so everything is in an anonymous namespace.
#pragma once

#ifdef __F16C__
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/element.h"
#include "kernels/cpu/row_loops.h"

namespace vqgan_fast {
namespace {

// Elements that are converted together where a conversion has a loop of its own.
constexpr int64_t kBlock = 64;

// Elements of a line, converted as they are asked for.
template <class E>
struct Reader {
  const typename E::Storage* from;
  Reader(const typename E::Storage* p, int64_t) : from(p) {}
  typename E::Exact operator[](int64_t i) const { return E::load(from[i]); }
};

// A line that takes doubles.
template <class E>
struct Writer {
  typename E::Storage* to;
  Writer(typename E::Storage* p, int64_t) : to(p) {}
  void set(int64_t i, double x) { to[i] = E::store(x); }
};

#ifdef __F16C__
// The compiler does not vectorise these conversions by itself.
template <>
struct Reader<Fp16> {
  alignas(32) float values[kBlock];
  Reader(const uint16_t* p, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
      _mm256_store_ps(values + i,
                      _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i))));
    }
    for (; i < n; ++i) values[i] = _cvtsh_ss(p[i]);
  }
  float operator[](int64_t i) const { return values[i]; }
};

template <>
struct Writer<Fp16> {
  alignas(32) float values[kBlock];
  uint16_t* to;
  int64_t size;
  Writer(uint16_t* p, int64_t n) : to(p), size(n) {}
  void set(int64_t i, double x) { values[i] = static_cast<float>(x); }
  ~Writer() {
    int64_t i = 0;
    for (; i + 8 <= size; i += 8) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                       _mm256_cvtps_ph(_mm256_load_ps(values + i), _MM_FROUND_TO_NEAREST_INT));
    }
    for (; i < size; ++i) to[i] = _cvtss_sh(values[i], _MM_FROUND_TO_NEAREST_INT);
  }
};
#endif

// Calls body(first, n) on the blocks of a line; one block where all conversions are by element.
template <class... Elements, class Body>
void for_each_block(int64_t n, const Body& body) {
#ifdef __F16C__
  constexpr bool kBlocks = (std::is_same_v<Elements, Fp16> || ...);
#else
  constexpr bool kBlocks = false;
#endif
  if constexpr (kBlocks) {
    for (int64_t first = 0; first < n; first += kBlock) body(first, std::min(kBlock, n - first));
  } else {
    body(int64_t{0}, n);
  }
}

template <class E>
void load(const void* from, int64_t n, double* to) {
  const auto* x = static_cast<const typename E::Storage*>(from);
  for_each_block<E>(n, [=](int64_t first, int64_t count) {
    const Reader<E> in(x + first, count);
    double* __restrict out = to + first;
    for (int64_t i = 0; i < count; ++i) out[i] = in[i];
  });
}

template <class E>
void store(const double* from, int64_t n, void* to) {
  auto* y = static_cast<typename E::Storage*>(to);
  for_each_block<E>(n, [=](int64_t first, int64_t count) {
    Writer<E> out(y + first, count);
    const double* __restrict in = from + first;
    for (int64_t i = 0; i < count; ++i) out.set(i, in[i]);
  });
}

template <class Z, class E>
void straight_through(const double* from, const void* code, int64_t n, void* z_q) {
  using Exact =
      std::conditional_t<std::is_same_v<Z, Fp64> || std::is_same_v<E, Fp64>, double, float>;
  const auto* e = static_cast<const typename E::Storage*>(code);
  auto* to = static_cast<typename Z::Storage*>(z_q);
  for_each_block<Z, E>(n, [=](int64_t first, int64_t count) {
    const double* __restrict z = from + first;
    const Reader<E> codes(e + first, count);
    Writer<Z> out(to + first, count);
    if constexpr (std::is_same_v<Z, E> && sizeof(typename Z::Storage) == 2) {
      // Both steps are rounded to 16 bits; the first through memory, as Writer and Reader have it.
      typename Z::Storage* rounded = to + first;
      {
        Writer<Z> difference(rounded, count);
        for (int64_t i = 0; i < count; ++i) {
          difference.set(i, codes[i] - static_cast<float>(z[i]));
        }
      }
      const Reader<Z> differences(rounded, count);
      for (int64_t i = 0; i < count; ++i) out.set(i, static_cast<float>(z[i]) + differences[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) {
        const Exact x = static_cast<Exact>(z[i]);
        out.set(i, x + (static_cast<Exact>(codes[i]) - x));
      }
    }
  });
}

template <class Z, class E>
void grad_z_block(const typename Z::Storage* z, const typename E::Storage* e,
                  const typename Z::Storage* g, double scale, int64_t n, typename Z::Storage* to) {
  const Reader<Z> zs(z, n), gs(g, n);
  const Reader<E> codes(e, n);
  Writer<Z> out(to, n);
  for (int64_t i = 0; i < n; ++i) {
    const double difference = static_cast<double>(zs[i]) - static_cast<double>(codes[i]);
    out.set(i, scale * difference + static_cast<double>(gs[i]));
  }
}

template <class Z, class E>
void grad_z(const void* latents, const void* code, const void* grad_z_q, double scale, int64_t n,
            int64_t behind, void* result) {
  constexpr int64_t kSize = sizeof(typename Z::Storage);
  constexpr int64_t kLine = 64 / kSize, kAhead = RowLoops::kBytesAhead / kSize;
  const auto* z = static_cast<const typename Z::Storage*>(latents);
  const auto* e = static_cast<const typename E::Storage*>(code);
  const auto* g = static_cast<const typename Z::Storage*>(grad_z_q);
  auto* to = static_cast<typename Z::Storage*>(result);
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t last = std::min(i + kAhead + kBlock, n + behind);
    for (int64_t later = i + kAhead; later < last; later += kLine) {
      __builtin_prefetch(z + later);
      __builtin_prefetch(g + later);
      __builtin_prefetch(to + later, 1);
    }
    grad_z_block<Z, E>(z + i, e + i, g + i, scale, std::min(kBlock, n - i), to + i);
  }
}

template <class E>
constexpr void add_type(RowLoops* loops) {
  constexpr int kType = static_cast<int>(E::kType);
  loops->load[kType] = load<E>;
  loops->store[kType] = store<E>;
}

template <class Z, class... Codes>
constexpr void add_pairs(RowLoops* loops) {
  constexpr int kType = static_cast<int>(Z::kType);
  ((loops->straight_through[kType][static_cast<int>(Codes::kType)] = straight_through<Z, Codes>),
   ...);
  ((loops->grad_z[kType][static_cast<int>(Codes::kType)] = grad_z<Z, Codes>), ...);
}

template <class... Elements>
constexpr RowLoops make_loops() {
  RowLoops loops{};
  (add_type<Elements>(&loops), ...);
  (add_pairs<Elements, Elements...>(&loops), ...);
  return loops;
}

constexpr RowLoops kLoops = make_loops<Fp32, Fp64, Bf16, Fp16>();

}  // namespace
}  // namespace vqgan_fast
