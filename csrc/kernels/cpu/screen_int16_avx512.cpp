// AVX-512: products and their sums are two instructions.
#include "kernels/cpu/quantised_loops.h"
#include "kernels/cpu/quantised_vectors_avx512.h"

namespace vqgan_fast {
namespace {

struct Avx512 : Avx512Vectors {
  static constexpr int kElements = 2;
  static Int dot(Int acc, Int a, Int b) { return vpaddd(acc, _mm512_madd_epi16(a, b)); }
};

}  // namespace

const QuantisedKernels kScreenInt16Avx512 = make_kernels<Avx512>();

}  // namespace vqgan_fast
