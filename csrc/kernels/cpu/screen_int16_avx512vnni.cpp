// AVX-512 with VNNI: one instruction for two products and their sum.
#include "kernels/cpu/screen_int16_avx512.h"
#include "kernels/cpu/screen_int16_loops.h"

namespace vqgan_fast {
namespace {

struct Avx512Vnni : Avx512Vectors {
  static Int dot(Int acc, Int a, Int b) { return vpdpwssd(acc, a, b); }
};

}  // namespace

const ScreenInt16Kernels kScreenInt16Avx512Vnni = make_kernels<Avx512Vnni>();

}  // namespace vqgan_fast
