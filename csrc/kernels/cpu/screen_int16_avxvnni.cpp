// AVX-VNNI: one instruction for two products and their sum.
#include "kernels/cpu/avxvnni_instructions.h"
#include "kernels/cpu/quantised_loops.h"
#include "kernels/cpu/quantised_vectors_avx2.h"

namespace vqgan_fast {
namespace {

struct AvxVnniInt16 : Avx2Vectors {
  static constexpr int kElements = 2;
  static Int dot(Int acc, Int a, Int b) { return vpdpwssd(acc, a, b); }
};

}  // namespace

const QuantisedKernels kScreenInt16AvxVnni = make_kernels<AvxVnniInt16>();

}  // namespace vqgan_fast
