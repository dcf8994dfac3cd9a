#include "kernels/cpu/code_sums_generic.h"

namespace vqgan_fast {

const CodeSums kCodeSumsBaseline = make_sums<2>();

}  // namespace vqgan_fast
