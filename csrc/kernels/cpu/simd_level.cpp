#include "kernels/cpu/simd_level.h"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <string>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
// Where a compiler has no tiles, there are no kernels for them either.
#if defined(__x86_64__) && defined(__linux__) && defined(VQGAN_FAST_HAS_SCREEN_INT16_AMX)
#define VQGAN_FAST_ASKS_FOR_TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace vqgan_fast {
namespace {

// The levels of this architecture.
constexpr SimdLevel kLevels[] = {
    SimdLevel::kBaseline,
#if defined(__aarch64__)
    SimdLevel::kNeon,
    SimdLevel::kNeonDot,
#elif defined(__x86_64__)
    SimdLevel::kAvx2,       SimdLevel::kAvxVnni, SimdLevel::kAvx512,
    SimdLevel::kAvx512Vnni, SimdLevel::kAmx,
#endif
};

// Such as "baseline, avx2 and avx512".
template <class Levels>
std::string names_of(const Levels& levels, const char* last) {
  std::string names;
  for (size_t i = 0; i < std::size(levels); ++i) {
    if (i > 0) names += i + 1 == std::size(levels) ? last : ", ";
    names += simd_level_name(levels[i]);
  }
  return names;
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

// AVX-VNNI: not what __builtin_cpu_supports means by "avx512vnni".
bool has_avx_vnni() {
  static const bool has = [] {
    constexpr unsigned kAvxVnniBit = 1u << 4;
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & kAvxVnniBit) != 0;
  }();
  return has;
}

// Whether the CPU has tiles, and Linux (from 5.16 on) lets this process use them. To be asked only
// where they are wanted: then the system takes no stacks for signals that a thread's tiles would
// not fit.
bool may_use_tiles() {
#if defined(VQGAN_FAST_ASKS_FOR_TILES)
  static const bool may = [] {
    constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25;
    constexpr int kRequestPermission = 0x1023, kTileData = 18;  // <asm/prctl.h> of that Linux
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kTile) != 0 && (d & kInt8) != 0 &&
           syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return may;
#else
  return false;
#endif
}
#elif defined(__aarch64__)
bool has_dot_products() {
#if defined(__linux__)
  constexpr unsigned long kDotProducts = 1ul << 20;  // HWCAP_ASIMDDP
  return (getauxval(AT_HWCAP) & kDotProducts) != 0;
#else
  return false;
#endif
}
#endif

// The highest level of the CPU up to this one.
SimdLevel cpu_level_up_to(SimdLevel most) {
#if defined(__aarch64__)
  // NEON is part of the architecture.
  return std::min(most, has_dot_products() ? SimdLevel::kNeonDot : SimdLevel::kNeon);
#elif defined(__x86_64__)
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c())) {
    return SimdLevel::kBaseline;
  }
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!has_avx512 || most <= SimdLevel::kAvxVnni) {
    return std::min(most, has_avx_vnni() ? SimdLevel::kAvxVnni : SimdLevel::kAvx2);
  }
  if (!__builtin_cpu_supports("avx512vnni")) return std::min(most, SimdLevel::kAvx512);
  if (most < SimdLevel::kAmx || !may_use_tiles()) return std::min(most, SimdLevel::kAvx512Vnni);
  return SimdLevel::kAmx;
#else
  static_cast<void>(most);
  return SimdLevel::kBaseline;
#endif
}

}  // namespace

const char* simd_level_name(SimdLevel level) {
  switch (level) {
    case SimdLevel::kAmx:
      return "amx";
    case SimdLevel::kAvx512Vnni:
      return "avx512vnni";
    case SimdLevel::kAvx512:
      return "avx512";
    case SimdLevel::kAvxVnni:
      return "avxvnni";
    case SimdLevel::kAvx2:
      return "avx2";
    case SimdLevel::kNeonDot:
      return "neondot";
    case SimdLevel::kNeon:
      return "neon";
    case SimdLevel::kBaseline:
      break;
  }
  return "baseline";
}

SimdLevel cpu_simd_level() { return cpu_level_up_to(kLevels[std::size(kLevels) - 1]); }

std::vector<SimdLevel> cpu_simd_levels() {
  std::vector<SimdLevel> levels;
  for (const SimdLevel level : kLevels) {
    if (cpu_level_up_to(level) == level) levels.push_back(level);
  }
  return levels;
}

SimdLevel simd_level() {
  // Read at every call, so that a test can force one level after the other in one process.
  const char* forced = std::getenv("VQGAN_FAST_ISA");
  if (forced == nullptr || *forced == '\0') return cpu_simd_level();
  for (const SimdLevel level : kLevels) {
    if (std::string(forced) != simd_level_name(level)) continue;
    if (level != cpu_level_up_to(level)) {
      throw std::runtime_error(std::string("VQGAN_FAST_ISA=") + forced + ": this CPU runs " +
                               names_of(cpu_simd_levels(), " and "));
    }
    return level;
  }
  throw std::runtime_error("VQGAN_FAST_ISA must be " + names_of(kLevels, " or ") + ", got " +
                           forced);
}

}  // namespace vqgan_fast
