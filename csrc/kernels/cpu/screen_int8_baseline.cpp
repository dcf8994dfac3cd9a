// Any CPU.
#include "kernels/cpu/quantised_loops.h"
#include "kernels/cpu/quantised_vectors_baseline.h"

namespace vqgan_fast {
namespace {

struct BaselineInt8 : BaselineVectors {
  static constexpr int kElements = 4;
  // Each byte of a and b, without and with its sign.
  static Int dot(Int acc, Int codes, Int row) {
    acc += (codes & 255) * ((row << 24) >> 24);
    acc += ((codes >> 8) & 255) * ((row << 16) >> 24);
    acc += ((codes >> 16) & 255) * ((row << 8) >> 24);
    return acc + ((codes >> 24) & 255) * (row >> 24);
  }
};

}  // namespace

const QuantisedKernels kScreenInt8Baseline = make_kernels<BaselineInt8>();

}  // namespace vqgan_fast
