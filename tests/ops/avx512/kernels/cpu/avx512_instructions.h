// Stands in for csrc/kernels/cpu/avx512_instructions.h on a CPU without AVX-512.
#pragma once

#include <immintrin.h>

namespace vqgan_fast {
namespace {

[[maybe_unused]] inline __m512i vpaddd(__m512i acc, __m512i a) { return _mm512_add_epi32(acc, a); }

[[maybe_unused]] inline __m512i vpdpwssd(__m512i acc, __m512i a, __m512i b) {
  return emulated::dpwssd_epi32(acc, a, b);
}

[[maybe_unused]] inline __m512i vpdpbusd(__m512i acc, __m512i a, __m512i b) {
  return emulated::dpbusd_epi32(acc, a, b);
}

}  // namespace
}  // namespace vqgan_fast
