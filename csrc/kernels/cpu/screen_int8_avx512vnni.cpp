// AVX-512 with VNNI: one instruction for four products and their sum.
#include "kernels/cpu/quantised_loops.h"
#include "kernels/cpu/quantised_vectors_avx512.h"

namespace vqgan_fast {
namespace {

struct Avx512VnniInt8 : Avx512Vectors {
  static constexpr int kElements = 4;
  static Int dot(Int acc, Int codes, Int row) { return vpdpbusd(acc, codes, row); }
};

}  // namespace

const QuantisedKernels kScreenInt8Avx512Vnni = make_kernels<Avx512VnniInt8>();

}  // namespace vqgan_fast
