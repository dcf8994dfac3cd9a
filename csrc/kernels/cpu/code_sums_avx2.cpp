#include "kernels/cpu/code_sums_generic.h"

namespace vqgan_fast {

const CodeSums kCodeSumsAvx2 = make_sums<4>();

}  // namespace vqgan_fast
