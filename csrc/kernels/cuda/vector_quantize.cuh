// What vector_quantize does on CUDA after nearest_code, and its backward.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cpu/rows.h"
#include "kernels/cuda/code_order.cuh"

namespace vqgan_fast {
namespace cuda {

struct StraightThroughArgs {
  Rows z;                            // num_rows x dim
  Rows codebook;                     // num_codes x dim
  const int64_t* indices = nullptr;  // num_rows, all in 0 .. num_codes - 1
  int64_t num_rows = 0;              // at least 1
  int64_t dim = 0;                   // at least 1
  // torch's promotion of z's and the codebook's dtypes, in which it evaluates z + (e - z).
  DType promoted = DType::kFloat32;
  Rows z_q;  // written; num_rows x dim
};

// z_q = z + (e - z), each operation rounded to `promoted`, the result to z_q's dtype.
cudaError_t straight_through(const StraightThroughArgs& args, cudaStream_t stream);

int64_t mean_workspace_doubles(int64_t count);

// Both losses: the sum of `distances` in one fixed order, divided by `divisor`.
cudaError_t mean_distance(const double* distances, int64_t count, double divisor, double* workspace,
                          void* commitment_loss, void* codebook_loss, DType loss_dtype,
                          cudaStream_t stream);

struct GradZArgs {
  Rows grad_z_q;                          // data null: none
  const void* grad_commitment = nullptr;  // one element
  DType grad_commitment_dtype = DType::kFloat32;
  Rows z;
  Rows codebook;
  const int64_t* indices = nullptr;
  int64_t num_rows = 0;      // at least 1
  int64_t num_codes = 0;     // at least 1
  int64_t dim = 0;           // at least 1
  double per_element = 0.0;  // 2 / elements of z, over which the loss is a mean
  Rows grad_z;               // written
};

// grad_z = grad_z_q + per_element g (z - e) in fp64, rounded once; NaN in a row whose index is no
// code.
cudaError_t grad_z(const GradZArgs& args, cudaStream_t stream);

struct GradCodebookArgs {
  const void* grad_codebook_loss = nullptr;  // one element
  DType grad_codebook_loss_dtype = DType::kFloat32;
  Rows z;
  Rows codebook;
  CodeOrder rows;         // from order_by_code
  int64_t num_codes = 0;  // at least 1
  int64_t dim = 0;        // at least 1
  double per_element = 0.0;
  Rows grad_codebook;  // written
};

// grad_codebook_k = per_element g (count_k e_k - sum of z with code k) in fp64, rounded once; 0 for
// a code without rows. A row whose index is no code counts for none.
cudaError_t grad_codebook(const GradCodebookArgs& args, cudaStream_t stream);

}  // namespace cuda
}  // namespace vqgan_fast
