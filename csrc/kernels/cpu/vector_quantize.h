// The quantiser: nearest codes, the straight-through z_q, and the squared error, forward and
// backward.
#pragma once

#include <cstdint>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"

namespace vqgan_fast {

struct VectorQuantizeArgs {
  Rows z;         // num_rows x dim
  Rows codebook;  // num_codes x dim
  Rows z_q;       // num_rows x dim, written
  int64_t num_rows = 0;
  int64_t num_codes = 0;
  int64_t dim = 0;
  int64_t* indices = nullptr;  // num_rows, contiguous, written
};

// z_q = z + (e - z), each of the two steps rounded to the type that torch promotes z and e to, then
// to that of z_q. Returns the sum of ||z - e||^2 over all rows, in fp64, rows in order.
double vector_quantize(const VectorQuantizeArgs& args, const Parallel& parallel);

struct VectorQuantizeBackwardArgs {
  Rows z;
  Rows codebook;
  const int64_t* indices = nullptr;
  int64_t num_rows = 0;
  int64_t num_codes = 0;
  int64_t dim = 0;
};

// grad_z = grad_z_q + scale * (z - e), rounded once to the type of grad_z. grad_z_q.data may be
// null: 0.
void vector_quantize_grad_z(const VectorQuantizeBackwardArgs& args, const Rows& grad_z_q,
                            double scale, const Rows& grad_z, const Parallel& parallel);

// grad_codebook[k] = scale * (count_k e_k - sum of the rows of k). Every index must be in range.
void vector_quantize_grad_codebook(const VectorQuantizeBackwardArgs& args, double scale,
                                   const Rows& grad_codebook, const Parallel& parallel);

}  // namespace vqgan_fast
