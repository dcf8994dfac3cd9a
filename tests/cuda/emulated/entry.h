// What the C entry points (entry_<op>.cpp) share: the tests call those through ctypes.
#pragma once

#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

// Scratch memory, filled with garbage as a launcher finds it; a step before or behind it (but for
// what aligns its beginning to 16 bytes) ends the program.
class Workspace {
 public:
  explicit Workspace(size_t bytes) {
    constexpr size_t kPage = 4096;
    const size_t inside = (bytes + kPage - 1) / kPage * kPage;
    mapped_ = inside + 2 * kPage;
    void* all = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) std::abort();
    all_ = static_cast<unsigned char*>(all);
    if (inside == 0) return;
    if (mprotect(all_ + kPage, inside, PROT_READ | PROT_WRITE) != 0) std::abort();
    double* values = reinterpret_cast<double*>(all_ + kPage);
    std::fill(values, values + inside / sizeof(double), -1e300);
    offset_ = kPage + (inside - bytes) / 16 * 16;
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { munmap(all_, mapped_); }

  void* data() const { return all_ + offset_; }

 private:
  size_t mapped_;
  unsigned char* all_;
  size_t offset_ = 0;
};

// Of so many T.
template <class T>
class Scratch {
 public:
  explicit Scratch(size_t count) : memory_(count * sizeof(T)) {}
  T* data() const { return static_cast<T*>(memory_.data()); }

 private:
  Workspace memory_;
};
