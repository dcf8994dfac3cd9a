// The level that every CPU runs, on the compiler's own 16-byte vectors (SSE2, NEON, ...).
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/code_distances_few_rows.h"
#include "kernels/cpu/code_distances_tile.h"

namespace vqgan_fast {
namespace {

using Float4 = float __attribute__((vector_size(16)));
using Int4 = int32_t __attribute__((vector_size(16)));
using Double2 = double __attribute__((vector_size(16)));
using Int2 = int64_t __attribute__((vector_size(16)));

template <class T, class VectorT, class MaskT>
struct Simd16 {
  using Scalar = T;
  using Vector = VectorT;
  using Mask = MaskT;
  static constexpr int kLanes = 16 / sizeof(T);
  static constexpr int kVectors = 2;
  static constexpr int kTileRows = 2;

  static Vector zero() { return Vector{}; }
  static Vector load(const T* p) {
    Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(T* p, Vector v) { std::memcpy(p, &v, sizeof v); }
  static Vector broadcast(const T* p) { return *p - Vector{}; }
  static Vector subtract(Vector a, Vector b) { return a - b; }
  static Vector lesser(Vector a, Vector b) { return a < b ? a : b; }
  static Mask not_above(Vector a, Vector limit) { return ~(a > limit); }
  static Mask either(Mask a, Mask b) { return a | b; }
  static bool is_any(Mask mask) {
    int64_t halves[2];
    std::memcpy(halves, &mask, sizeof halves);
    return (halves[0] | halves[1]) != 0;
  }
};

struct Fp32 : Simd16<float, Float4, Int4> {
  static Vector add_square(Vector x, Vector acc) { return x * x + acc; }
};

struct Fp64 : Simd16<double, Double2, Int2> {
  static Vector add_square(Vector x, Vector acc) {
    return Vector{std::fma(x[0], x[0], acc[0]), std::fma(x[1], x[1], acc[1])};
  }
};

struct ReadFp32 {
  using Element = float;
};

// Elements of a code in lanes.
struct Across {
  using Vector = Float4;
  static constexpr int kLanes = 4;

  static Vector zero() { return Vector{}; }
  static Vector load_row(const float* p) { return Fp32::load(p); }
  static Vector add_square(Vector x, Vector acc) { return x * x + acc; }

  template <class Read>
  static Vector load(const float* p) {
    return Fp32::load(p);
  }

  template <class Read>
  static Vector load_some(const float* p, int count) {
    return Vector{p[0], count > 1 ? p[1] : 0.0f, count > 2 ? p[2] : 0.0f, 0.0f};
  }

  // sums[i] = the sum of acc[i]'s lanes; whether one of them is not above limit[i].
  static bool any_not_above(const Vector* acc, const float* limit, float* sums) {
    bool any = false;
    for (int i = 0; i < kSums; ++i) {
      sums[i] = (acc[i][0] + acc[i][2]) + (acc[i][1] + acc[i][3]);
      any |= !(sums[i] > limit[i]);
    }
    return any;
  }
};

template <class Element>
void pairs(const double* const* z, const void* const* e, int num_pairs, int64_t dim,
           double* distances) {
  // Four chains, because each waits for its last sum.
  for (int i = 0; i < num_pairs; i += 4) {
    double acc[4] = {};
    for (int64_t d = 0; d < dim; ++d) {
      for (int j = 0; j < 4; ++j) {
        const double difference = z[i + j][d] - static_cast<const Element*>(e[i + j])[d];
        acc[j] = std::fma(difference, difference, acc[j]);
      }
    }
    std::memcpy(distances + i, acc, sizeof acc);
  }
}

template <class Element, class Simd>
void pack(const void* codes, int64_t stride, int64_t count, int64_t dim,
          typename Simd::Scalar* panel) {
  constexpr int kPanelCodes = Simd::kLanes * Simd::kVectors;
  const Element* e[kPanelCodes];
  for (int lane = 0; lane < kPanelCodes; ++lane) {
    e[lane] = static_cast<const Element*>(codes) + (lane < count ? lane : count - 1) * stride;
  }
  for (int64_t d = 0; d < dim; ++d) {
    for (int lane = 0; lane < kPanelCodes; ++lane) {
      panel[d * kPanelCodes + lane] = static_cast<typename Simd::Scalar>(e[lane][d]);
    }
  }
}

template <class Element>
constexpr CodeKernels code_kernels(decltype(CodeKernels::few_rows) few_rows,
                                   decltype(CodeKernels::listed) listed) {
  return {sizeof(Element),     pairs<Element>, pack<Element, Fp32>,
          pack<Element, Fp64>, few_rows,       listed};
}

}  // namespace

constexpr CodeDistanceKernels kCodeDistancesBaseline = {
    direct_kernel<Fp32>(),
    direct_kernel<Fp64>(),
    code_kernels<float>(few_rows<Across, ReadFp32>, listed<Across, ReadFp32>),
    code_kernels<double>(nullptr, nullptr),
    CodeKernels{},
    CodeKernels{}};

}  // namespace vqgan_fast
