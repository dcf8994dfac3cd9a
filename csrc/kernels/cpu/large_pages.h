// Large pages for memory that is about to be touched for the first time.
#pragma once

#include <cstddef>
#include <cstdint>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace vqgan_fast {

constexpr size_t kLargePage = size_t{2} << 20;

// Below this, allocators keep memory that a process has already touched.
constexpr size_t kLeastLargeBytes = 2 * kLargePage;

// Advice to the system, on which nothing depends. The system clears new memory page by page, and
// for each small page it interrupts whoever touches it: together this takes several times as long
// as writing does.
inline void ask_for_large_pages(void* p, size_t bytes) {
#if defined(__linux__)
  if (bytes < kLeastLargeBytes) return;
  constexpr uintptr_t kPage = 4096;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(p) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(p) + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  static_cast<void>(p);
  static_cast<void>(bytes);
#endif
}

}  // namespace vqgan_fast
