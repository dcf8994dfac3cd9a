// The level that every CPU runs, on the compiler's own 16-byte vectors (SSE2 on x86-64).
#include <cstring>

#include "kernels/cpu/screen_fp32_tiles.h"

namespace vqgan_fast {
namespace {

struct Vectors16 {
  static constexpr int kLanes = 4;
  using Vector = float __attribute__((vector_size(16)));
  using Index = int32_t __attribute__((vector_size(16)));

  static Vector load(const float* p) {
    Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(float* p, Vector v) { std::memcpy(p, &v, sizeof v); }
  static Vector broadcast(const float* p) { return Vector{*p, *p, *p, *p}; }
  static Index load_index(const float* p) {
    Index v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store_index(float* p, Index v) { std::memcpy(p, &v, sizeof v); }
  static Index broadcast_index(int32_t i) { return Index{i, i, i, i}; }
  static Vector zero() { return Vector{}; }
  static Vector add(Vector a, Vector b) { return a + b; }
  static Vector multiply(Vector a, Vector b) { return a * b; }
  static Vector multiply_subtract(Vector a, Vector b, Vector c) { return c - a * b; }
  static Vector min(Vector a, Vector b) { return a < b ? a : b; }
  static Vector max(Vector a, Vector b) { return a > b ? a : b; }
  static Index replace(Index index, Vector a, Vector b, Index panel) {
    return a < b ? panel : index;
  }
  static float lowest(Vector v) { return std::min(std::min(v[0], v[1]), std::min(v[2], v[3])); }
  static unsigned at_most(Vector v, Vector limit) {
    return (v[0] <= limit[0]) | (v[1] <= limit[1]) << 1 | (v[2] <= limit[2]) << 2 |
           (v[3] <= limit[3]) << 3;
  }
};

const ScreenFp32Kernel* kernel(int64_t num_codes, int64_t dim) {
  static_cast<void>(num_codes);
  if (dim == 3) return &kKernel<Vectors16, Order::kVectors, 2, 8, 3>;
  if (dim == 4) return &kKernel<Vectors16, Order::kVectors, 2, 8, 4>;
  return &kKernel<Vectors16, Order::kDims, 2, 4, 0>;
}

}  // namespace

const ScreenFp32Level kScreenFp32Baseline = {kernel, prepare<Vectors16>, pack<Vectors16>};

}  // namespace vqgan_fast
