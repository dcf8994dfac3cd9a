// A point in the middle of the codes.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/code_source.h"

namespace vqgan_fast {

// The mean of the finite ones of up to 64 codes spread over the codebook; 0 where it is not finite.
// What is measured from it has small norms, and so small errors, whatever offset the codes share.
std::vector<double> find_centre(const CodeSource& codes);

}  // namespace vqgan_fast
