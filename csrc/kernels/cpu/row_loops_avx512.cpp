#include "kernels/cpu/row_loops_generic.h"

namespace vqgan_fast {

const RowLoops kRowLoopsAvx512 = kLoops;

}  // namespace vqgan_fast
