#include "kernels/cpu/row_loops.h"

namespace vqgan_fast {

const RowLoops& row_loops(SimdLevel level) {
#ifdef VQGAN_FAST_HAS_ROW_LOOPS_AVX512
  if (level >= SimdLevel::kAvx512) return kRowLoopsAvx512;
#endif
#ifdef VQGAN_FAST_HAS_ROW_LOOPS_AVX2
  if (level >= SimdLevel::kAvx2) return kRowLoopsAvx2;
#endif
  static_cast<void>(level);
  return kRowLoopsBaseline;
}

const RowLoops& row_loops() {
  static const RowLoops& loops = row_loops(simd_level());
  return loops;
}

}  // namespace vqgan_fast
