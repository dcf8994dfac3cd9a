// Instructions of AVX-512 in assembly, for sums that the compiler would not keep in their register
// otherwise: GCC 12 spills half of the accumulators of a tile, or most of them. Included by
// <op>_avx512*.cpp alone; tests/ops/avx512/ has the same functions for other CPUs.
#pragma once

#include <immintrin.h>

namespace vqgan_fast {
namespace {

// acc + a, 32-bit lanes.
[[maybe_unused]] inline __m512i vpaddd(__m512i acc, __m512i a) {
  asm("vpaddd %1, %0, %0" : "+v"(acc) : "v"(a));
  return acc;
}

// acc + the sum of the two products of 16-bit lanes in each 32-bit lane; VNNI.
[[maybe_unused]] inline __m512i vpdpwssd(__m512i acc, __m512i a, __m512i b) {
  asm("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
  return acc;
}

// acc + the sum of the four products of unsigned bytes of a and signed ones of b in each 32-bit
// lane; VNNI.
[[maybe_unused]] inline __m512i vpdpbusd(__m512i acc, __m512i a, __m512i b) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
  return acc;
}

}  // namespace
}  // namespace vqgan_fast
