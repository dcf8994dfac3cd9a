// Which instruction set the kernels use. Each level of an op is a translation unit of its own,
// <op>_<level>.cpp, and the op takes the highest one that is compiled in and not above
// simd_level().
#pragma once

#include <string>

namespace vqgan_fast {

enum class SimdLevel { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

// "baseline", "avx2" or "avx512".
const char* simd_level_name(SimdLevel level);

// The highest level that this CPU runs.
SimdLevel cpu_simd_level();

// The level in force: the CPU's, or the one that the environment variable VQGAN_FAST_ISA names.
// Throws std::runtime_error if the variable names no level or one that this CPU does not run.
SimdLevel simd_level();

}  // namespace vqgan_fast
