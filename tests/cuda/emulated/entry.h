// What the C entry points (entry_<op>.cpp) share: the tests call those through ctypes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

// Filled with garbage, as a launcher finds its workspace.
struct Workspace {
  explicit Workspace(size_t bytes) : memory(bytes / sizeof(double) + 1, -1e300) {}
  void* data() { return memory.data(); }
  std::vector<double> memory;
};
