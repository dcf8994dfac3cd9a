// AVX2.
#include "kernels/cpu/quantised_loops.h"
#include "kernels/cpu/quantised_vectors_avx2.h"

namespace vqgan_fast {
namespace {

struct Avx2Int16 : Avx2Vectors {
  static constexpr int kElements = 2;
  // The sum in assembly keeps it in its register: GCC 12 spills half of the accumulators otherwise.
  static Int dot(Int acc, Int a, Int b) {
    asm("vpaddd %1, %0, %0" : "+x"(acc) : "x"(_mm256_madd_epi16(a, b)));
    return acc;
  }
};

}  // namespace

const QuantisedKernels kScreenInt16Avx2 = make_kernels<Avx2Int16>();

}  // namespace vqgan_fast
