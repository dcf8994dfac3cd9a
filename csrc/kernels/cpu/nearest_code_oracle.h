// The definition of nearest_code as a scalar loop: what the tests hold every kernel against.
#pragma once

#include <cstdint>

namespace vqgan_fast {

// z (num_rows, dim) and codebook (num_codes, dim), C-contiguous. docs/numerics.md, "Definition".
void nearest_code_oracle(const double* z, const double* codebook, int64_t num_rows,
                         int64_t num_codes, int64_t dim, int64_t* indices, double* distances);

}  // namespace vqgan_fast
