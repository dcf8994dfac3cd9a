// How every kernel is launched.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace vqgan_fast {

constexpr int64_t kMaxGridX = 0x7fffffff;
constexpr int64_t kMaxGridY = 65535;

// Launches on `stream` and returns the launch's own error.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t grid_x, int64_t grid_y, int threads,
                   cudaStream_t stream, Arguments... arguments) {
  if (grid_x > kMaxGridX || grid_y > kMaxGridY) return cudaErrorInvalidConfiguration;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid_x), static_cast<unsigned>(grid_y));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

}  // namespace vqgan_fast
