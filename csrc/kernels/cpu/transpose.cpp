#include "kernels/cpu/transpose.h"

#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {
namespace {

// Of the level when this was first asked for: a tile is too little work to ask the environment.
const TransposeLoops& loops() {
#ifdef VQGAN_FAST_HAS_TRANSPOSE_AVX2
  static const bool has_avx2 = simd_level() >= SimdLevel::kAvx2;
  if (has_avx2) return kTransposesAvx2;
#endif
  return kTransposesBaseline;
}

}  // namespace

void transpose(int64_t element_bytes, const void* const* lines, int64_t num_lines, int64_t length,
               void* to, int64_t to_stride) {
  const TransposeLoops& by_size = loops();
  const auto loop = element_bytes == 2   ? by_size.of_2_bytes
                    : element_bytes == 4 ? by_size.of_4_bytes
                                         : by_size.of_8_bytes;
  loop(lines, num_lines, length, to, to_stride);
}

}  // namespace vqgan_fast
