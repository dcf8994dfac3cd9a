// Turns columns into rows.
#pragma once

#include <cstdint>

namespace vqgan_fast {

// to[j * to_stride + i] = lines[i][j] for i < num_lines, j < length; elements of 2, 4 or 8 bytes,
// whatever their type.
void transpose(int64_t element_bytes, const void* const* lines, int64_t num_lines, int64_t length,
               void* to, int64_t to_stride);

}  // namespace vqgan_fast
