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

// Whether the current device would run code of `kernel` that was compiled for `arch` or newer.
template <class... Parameters>
bool compiled_for(void (*kernel)(Parameters...), int arch) {
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)) != cudaSuccess) {
    cudaGetLastError();  // none for this device: not the caller's error
    return false;
  }
  return attributes.ptxVersion >= arch;
}

// launch with dynamic shared memory, of which no call of this kernel takes more than `most_bytes`.
// That is what the kernel is allowed, each time: the permission belongs to the kernel on the
// current device, not to a call, and another thread may be about to launch it with more memory than
// this.
template <class... Parameters, class... Arguments>
cudaError_t launch_shared(void (*kernel)(Parameters...), int64_t grid_x, int threads,
                          int shared_bytes, int most_bytes, cudaStream_t stream,
                          Arguments... arguments) {
  if (grid_x > kMaxGridX) return cudaErrorInvalidConfiguration;
  const cudaError_t error =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, most_bytes);
  if (error != cudaSuccess) return error;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid_x));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

}  // namespace vqgan_fast
