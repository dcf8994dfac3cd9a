// AVX-512 with VNNI: one instruction for two products and their sum.
#include "kernels/cpu/quantised_loops.h"
#include "kernels/cpu/quantised_vectors_avx512.h"

namespace vqgan_fast {
namespace {

struct Avx512Vnni : Avx512Vectors {
  static constexpr int kElements = 2;
  static Int dot(Int acc, Int a, Int b) { return vpdpwssd(acc, a, b); }
};

}  // namespace

const QuantisedKernels kScreenInt16Avx512Vnni = make_kernels<Avx512Vnni>();

}  // namespace vqgan_fast
