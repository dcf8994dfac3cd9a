#include "kernels/cpu/aligned_memory.h"

#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace vqgan_fast {

void* allocate_aligned(size_t bytes) {
  constexpr size_t kLine = 64;
  constexpr size_t kLargePage = size_t{2} << 20;
  const bool large = bytes >= 2 * kLargePage;
  const size_t alignment = large ? kLargePage : kLine;
  const size_t size = (bytes + alignment - 1) / alignment * alignment;
  void* p = std::aligned_alloc(alignment, size);
  if (p == nullptr && bytes > 0) throw std::bad_alloc();
#if defined(__linux__)
  if (large) madvise(p, size, MADV_HUGEPAGE);  // advice: nothing depends on it
#endif
  return p;
}

}  // namespace vqgan_fast
