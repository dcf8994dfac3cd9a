#include "kernels/cpu/simd_level.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace vqgan_fast {
namespace {

constexpr SimdLevel kLevels[] = {SimdLevel::kBaseline, SimdLevel::kAvx2, SimdLevel::kAvx512};

}  // namespace

const char* simd_level_name(SimdLevel level) {
  switch (level) {
    case SimdLevel::kAvx512:
      return "avx512";
    case SimdLevel::kAvx2:
      return "avx2";
    case SimdLevel::kBaseline:
      break;
  }
  return "baseline";
}

SimdLevel cpu_simd_level() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return SimdLevel::kAvx512;
  }
  if (avx2) return SimdLevel::kAvx2;
#endif
  return SimdLevel::kBaseline;
}

SimdLevel simd_level() {
  // Read at every call, so that a test can force one level after the other in one process.
  const char* forced = std::getenv("VQGAN_FAST_ISA");
  const SimdLevel cpu = cpu_simd_level();
  if (forced == nullptr || *forced == '\0') return cpu;
  for (const SimdLevel level : kLevels) {
    if (std::string(forced) != simd_level_name(level)) continue;
    if (level > cpu) {
      throw std::runtime_error(std::string("VQGAN_FAST_ISA=") + forced +
                               ": this CPU runs no more than " + simd_level_name(cpu));
    }
    return level;
  }
  throw std::runtime_error(std::string("VQGAN_FAST_ISA must be baseline, avx2 or avx512, got ") +
                           forced);
}

}  // namespace vqgan_fast
