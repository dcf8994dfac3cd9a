#include "kernels/cpu/row_loops_generic.h"

namespace vqgan_fast {

const RowLoops kRowLoopsAvx2 = kLoops;

}  // namespace vqgan_fast
