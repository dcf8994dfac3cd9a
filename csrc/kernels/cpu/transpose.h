// Turns columns into rows.
#pragma once

#include <cstdint>

namespace vqgan_fast {

// to[j * to_stride + i] = lines[i][j] for i < num_lines, j < length; elements of 2, 4 or 8 bytes,
// whatever their type.
void transpose(int64_t element_bytes, const void* const* lines, int64_t num_lines, int64_t length,
               void* to, int64_t to_stride);

// The same for one size each, which every SIMD level writes for itself.
struct TransposeLoops {
  using Loop = void(const void* const* lines, int64_t num_lines, int64_t length, void* to,
                    int64_t to_stride);
  Loop* of_2_bytes;
  Loop* of_4_bytes;
  Loop* of_8_bytes;
};

extern const TransposeLoops kTransposesBaseline;
#ifdef VQGAN_FAST_HAS_TRANSPOSE_AVX2
extern const TransposeLoops kTransposesAvx2;
#endif

}  // namespace vqgan_fast
