#include "kernels/cpu/simd_level.h"

#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <string>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace vqgan_fast {
namespace {

// The levels of this architecture.
constexpr SimdLevel kLevels[] = {
    SimdLevel::kBaseline,
#if defined(__aarch64__)
    SimdLevel::kNeon,
#elif defined(__x86_64__)
    SimdLevel::kAvx2,
    SimdLevel::kAvx512,
    SimdLevel::kAvx512Vnni,
#endif
};

// Such as "baseline, avx2, avx512 or avx512vnni".
std::string all_names() {
  std::string all;
  for (const SimdLevel& level : kLevels) {
    if (&level != std::begin(kLevels)) all += &level + 1 == std::end(kLevels) ? " or " : ", ";
    all += simd_level_name(level);
  }
  return all;
}

#if defined(__x86_64__)
// Not every compiler's __builtin_cpu_supports knows the name. Asked once: in a virtual machine the
// instruction takes tens of microseconds.
bool has_f16c() {
  static const bool has = [] {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
  }();
  return has;
}
#endif

}  // namespace

const char* simd_level_name(SimdLevel level) {
  switch (level) {
    case SimdLevel::kAvx512Vnni:
      return "avx512vnni";
    case SimdLevel::kAvx512:
      return "avx512";
    case SimdLevel::kAvx2:
      return "avx2";
    case SimdLevel::kNeon:
      return "neon";
    case SimdLevel::kBaseline:
      break;
  }
  return "baseline";
}

SimdLevel cpu_simd_level() {
#if defined(__aarch64__)
  return SimdLevel::kNeon;  // part of the architecture
#elif defined(__x86_64__)
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c())) {
    return SimdLevel::kBaseline;
  }
  if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))) {
    return SimdLevel::kAvx2;
  }
  return __builtin_cpu_supports("avx512vnni") ? SimdLevel::kAvx512Vnni : SimdLevel::kAvx512;
#else
  return SimdLevel::kBaseline;
#endif
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
  throw std::runtime_error("VQGAN_FAST_ISA must be " + all_names() + ", got " + forced);
}

}  // namespace vqgan_fast
