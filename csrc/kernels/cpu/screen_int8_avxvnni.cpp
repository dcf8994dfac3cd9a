// AVX-VNNI: one instruction for four products and their sum.
#include "kernels/cpu/avxvnni_instructions.h"
#include "kernels/cpu/quantised_loops.h"
#include "kernels/cpu/quantised_vectors_avx2.h"

namespace vqgan_fast {
namespace {

struct AvxVnniInt8 : Avx2Vectors {
  static constexpr int kElements = 4;
  static Int dot(Int acc, Int codes, Int row) { return vpdpbusd(acc, codes, row); }
};

}  // namespace

const QuantisedKernels kScreenInt8AvxVnni = make_kernels<AvxVnniInt8>();

}  // namespace vqgan_fast
