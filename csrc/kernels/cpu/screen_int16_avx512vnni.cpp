// AVX-512 with VNNI: one instruction for two products and their sum.
#include "kernels/cpu/screen_int16_avx512.h"
#include "kernels/cpu/screen_int16_loops.h"

namespace vqgan_fast {
namespace {

struct Avx512Vnni : Avx512Vectors {
  // In assembly it stays in its register: GCC 12 spills most of the accumulators otherwise.
  static Int dot(Int acc, Int a, Int b) {
    asm("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
    return acc;
  }
};

}  // namespace

const ScreenInt16Kernels kScreenInt16Avx512Vnni = make_kernels<Avx512Vnni>();

}  // namespace vqgan_fast
