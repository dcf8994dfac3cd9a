#include "kernels/cpu/aligned_memory.h"

#include <new>

#include "kernels/cpu/large_pages.h"

namespace vqgan_fast {

void* allocate_aligned(size_t bytes) {
  constexpr size_t kLine = 64;
  const size_t alignment = bytes >= kLeastLargeBytes ? kLargePage : kLine;
  const size_t size = (bytes + alignment - 1) / alignment * alignment;
  void* p = std::aligned_alloc(alignment, size);
  if (p == nullptr && bytes > 0) throw std::bad_alloc();
  ask_for_large_pages(p, size);
  return p;
}

}  // namespace vqgan_fast
