#include "kernels/cpu/code_sums_generic.h"

namespace vqgan_fast {

const CodeSums kCodeSumsBaseline = kSums;

}  // namespace vqgan_fast
