#include "kernels/cpu/transpose_generic.h"

namespace vqgan_fast {

const TransposeLoops kTransposesAvx2 = kTransposes;

}  // namespace vqgan_fast
