#include "kernels/cpu/row_loops_generic.h"

namespace vqgan_fast {

const RowLoops kRowLoopsBaseline = kLoops;

}  // namespace vqgan_fast
