#include "kernels/cpu/code_sums_generic.h"

namespace vqgan_fast {

const CodeSums kCodeSumsAvx2 = kSums;

}  // namespace vqgan_fast
