// Instructions of AVX-VNNI in assembly, as no flag of a compiler is needed then, and they stay in
// their registers (see avx512_instructions.h). Included by <op>_avxvnni.cpp alone;
// tests/ops/avx512/ has the same functions for other CPUs.
#pragma once

#include <immintrin.h>

namespace vqgan_fast {
namespace {

// acc + the sum of the two products of 16-bit lanes in each 32-bit lane. Without {vex} an assembler
// writes the form of AVX-512.
[[maybe_unused]] inline __m256i vpdpwssd(__m256i acc, __m256i a, __m256i b) {
  asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(acc) : "x"(a), "x"(b));
  return acc;
}

// acc + the sum of the four products of unsigned bytes of a and signed ones of b in each 32-bit
// lane.
[[maybe_unused]] inline __m256i vpdpbusd(__m256i acc, __m256i a, __m256i b) {
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(a), "x"(b));
  return acc;
}

}  // namespace
}  // namespace vqgan_fast
