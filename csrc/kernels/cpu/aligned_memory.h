// Memory for packed codebooks and for what a thread keeps beside them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace vqgan_fast {

struct FreeMemory {
  void operator()(void* p) const { std::free(p); }
};

// Uninitialised, aligned to a cache line; what is large lies on large pages where the system has
// them, or touching it for the first time would take longer than packing a codebook. Throws
// std::bad_alloc.
void* allocate_aligned(size_t bytes);

using AlignedFloats = std::unique_ptr<float[], FreeMemory>;
AlignedFloats allocate_floats(int64_t count);

}  // namespace vqgan_fast
