// AVX-512: products and their sums are two instructions.
#include "kernels/cpu/screen_int16_avx512.h"

#include "kernels/cpu/screen_int16_loops.h"

namespace vqgan_fast {
namespace {

struct Avx512 : Avx512Vectors {
  static Int dot(Int acc, Int a, Int b) { return vpaddd(acc, _mm512_madd_epi16(a, b)); }
};

}  // namespace

const ScreenInt16Kernels kScreenInt16Avx512 = make_kernels<Avx512>();

}  // namespace vqgan_fast
