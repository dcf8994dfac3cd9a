#include "kernels/cpu/code_sums_generic.h"
#include "kernels/cpu/double_vectors_avx512.h"

namespace vqgan_fast {

const CodeSums kCodeSumsAvx512 = make_sums<8>();

}  // namespace vqgan_fast
