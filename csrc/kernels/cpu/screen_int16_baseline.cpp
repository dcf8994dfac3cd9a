// Any CPU.
#include "kernels/cpu/quantised_loops.h"
#include "kernels/cpu/quantised_vectors_baseline.h"

namespace vqgan_fast {
namespace {

struct Baseline : BaselineVectors {
  static constexpr int kElements = 2;
  // Both halves of each int32 with their signs.
  static Int dot(Int acc, Int a, Int b) {
    return acc + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
  }
};

}  // namespace

const QuantisedKernels kScreenInt16Baseline = make_kernels<Baseline>();

}  // namespace vqgan_fast
