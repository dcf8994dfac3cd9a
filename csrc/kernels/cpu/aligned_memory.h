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

template <class T>
using AlignedArray = std::unique_ptr<T[], FreeMemory>;

template <class T>
AlignedArray<T> allocate_array(int64_t count) {
  return AlignedArray<T>(static_cast<T*>(allocate_aligned(static_cast<size_t>(count) * sizeof(T))));
}

}  // namespace vqgan_fast
