// Stands in for csrc/kernels/cpu/avxvnni_instructions.h on a CPU without AVX-VNNI.
#pragma once

#include <immintrin.h>

namespace vqgan_fast {
namespace {

[[maybe_unused]] inline __m256i vpdpwssd(__m256i acc, __m256i a, __m256i b) {
  return emulated::dpwssd_epi32(acc, a, b);
}

[[maybe_unused]] inline __m256i vpdpbusd(__m256i acc, __m256i a, __m256i b) {
  return emulated::dpbusd_epi32(acc, a, b);
}

}  // namespace
}  // namespace vqgan_fast
