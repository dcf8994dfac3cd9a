// A point in the middle of the codes.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/rows.h"

namespace vqgan_fast {

// The mean of the finite ones of up to 64 codes spread over the codebook; 0 where it is not finite.
// What is measured from it has small norms, and so small errors, whatever offset the codes share.
std::vector<double> find_centre(const Rows& codebook, int64_t num_codes, int64_t dim);

}  // namespace vqgan_fast
