// Which instruction set the kernels use. Each level of an op is a translation unit of its own,
// <op>_<level>.cpp, and the op takes the highest one that is compiled in and not above
// simd_level().
#pragma once

#include <vector>

namespace vqgan_fast {

// Of the levels that one architecture has, each has the instructions of those before it, but for
// kAvxVnni: what is above has its own form of them.
enum class SimdLevel {
  kBaseline,
  kNeon,        // aarch64 alone, as the next one; the rest x86-64 alone
  kNeonDot,     // neon with the dot products of bytes (FEAT_DotProd)
  kAvx2,        // with FMA and F16C
  kAvxVnni,     // avx2 with AVX-VNNI
  kAvx512,      // F, BW, DQ and VL
  kAvx512Vnni,  // avx512 with VNNI
  kAmx,         // avx512vnni with AMX-TILE and AMX-INT8
};

// "baseline", "neon", "neondot", "avx2", "avxvnni", "avx512", "avx512vnni" or "amx".
const char* simd_level_name(SimdLevel level);

// The highest level that this CPU runs. Where it has AMX, asks the system, once, to let this
// process use its tiles: without that leave their first instruction would end the process.
SimdLevel cpu_simd_level();

// All that this CPU runs, the highest last.
std::vector<SimdLevel> cpu_simd_levels();

// The level in force: the CPU's, or the one that the environment variable VQGAN_FAST_ISA names.
// Throws std::runtime_error if the variable names no level or one that this CPU does not run.
SimdLevel simd_level();

}  // namespace vqgan_fast
