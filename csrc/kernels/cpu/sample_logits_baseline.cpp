#include "kernels/cpu/sample_logits_generic.h"

namespace vqgan_fast {

const SampleLoops kSampleLoopsBaseline = kLoops;

}  // namespace vqgan_fast
