#include "kernels/cpu/sample_logits_generic.h"

namespace vqgan_fast {

const SampleLoops kSampleLoopsAvx2 = kLoops;

}  // namespace vqgan_fast
