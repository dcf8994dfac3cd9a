#include "kernels/cpu/transpose_generic.h"

namespace vqgan_fast {

const TransposeLoops kTransposesBaseline = kTransposes;

}  // namespace vqgan_fast
