// The innermost loops over elements of any type, which every SIMD level writes for itself: plain
// structs and pointers only, so that no copy compiled for one level can be linked into another.
// Types become doubles without loss and are rounded once; results are the same bits at every level.
#pragma once

#include <cstdint>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

// Tables are indexed by DType: that of z or of the only argument, then that of the codebook.
struct RowLoops {
  static constexpr int kTypes = 4;

  void (*load[kTypes])(const void* from, int64_t n, double* to);

  // Rounds to nearest even, to a 16-bit type by way of fp32, as torch does.
  void (*store[kTypes])(const double* from, int64_t n, void* to);

  // z_q = z + (e - z), each step rounded to the type that torch promotes the two to.
  void (*straight_through[kTypes][kTypes])(const double* z, const void* e, int64_t n, void* z_q);

  // Several lines of memory at once take so much arithmetic that a processor does not look as far
  // ahead as the memory takes to answer: what lies this far behind is asked for on the way.
  static constexpr int64_t kBytesAhead = 2048;

  // grad_z = grad_z_q + scale * (z - e), in fp64 until it is stored. All but e have z's type.
  // So many elements `behind` the n are wanted next.
  void (*grad_z[kTypes][kTypes])(const void* z, const void* e, const void* grad_z_q, double scale,
                                 int64_t n, int64_t behind, void* grad_z);
};

extern const RowLoops kRowLoopsBaseline;
#ifdef VQGAN_FAST_HAS_ROW_LOOPS_AVX2
extern const RowLoops kRowLoopsAvx2;
#endif
#ifdef VQGAN_FAST_HAS_ROW_LOOPS_AVX512
extern const RowLoops kRowLoopsAvx512;
#endif

// The loops of the highest level that is compiled in and not above `level`.
const RowLoops& row_loops(SimdLevel level);

// Those of simd_level() when this was first called: for callers that convert a row at a time and
// cannot ask the environment each time.
const RowLoops& row_loops();

inline int64_t bytes_of(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

}  // namespace vqgan_fast
