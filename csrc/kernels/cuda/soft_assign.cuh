// soft_assign on CUDA: softmax over the codebook, tile by tile, without the N x K matrix. The
// problem and the formulas are those of the CPU (kernels/cpu/soft_assign.h, docs/soft_assign.md).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/soft_assign_problem.h"

namespace vqgan_fast {
namespace cuda {

// num_codes numbers, what is the same for a code in all its logits:
// (bias - ||e||^2 if squared) / temperature.
cudaError_t soft_code_terms(const SoftAssignProblem& problem, double* terms, cudaStream_t stream);

// As on the CPU; what has no data is not computed, but for the normalizer. Pointers are to memory
// of the device; `seed` is read there, if the problem is noisy, and the problem's own is not used.
struct SoftForwardArgs {
  SoftAssignProblem problem;
  const int64_t* seed = nullptr;
  const double* code_terms = nullptr;  // num_codes
  double* normalizer = nullptr;        // num_rows
  Rows log_sum_exp;                    // num_rows x 1
  Rows entropy;                        // num_rows x 1
  Rows expected;                       // num_rows x value_dim
  int64_t* indices = nullptr;          // num_rows
};
cudaError_t soft_forward(const SoftForwardArgs& args, cudaStream_t stream);

// out[k], num_codes x 1: the mean over the rows of the probability of code k.
cudaError_t soft_mean(const SoftAssignProblem& problem, const int64_t* seed,
                      const double* code_terms, const double* normalizer, const Rows& out,
                      cudaStream_t stream);

// What of the gradient by a logit depends on its latent alone:
// grad_log_sum_exp - grad_entropy entropy - grad_expected . expected - code_mean.
struct SoftRowTermsArgs {
  int64_t num_rows = 0;
  int64_t value_dim = 0;
  Rows grad_log_sum_exp;              // num_rows x 1, optional
  Rows grad_entropy, entropy;         // num_rows x 1, optional
  Rows grad_expected, expected;       // num_rows x value_dim, optional
  const double* code_mean = nullptr;  // num_rows, optional
  double* terms = nullptr;            // num_rows
};
cudaError_t soft_row_terms(const SoftRowTermsArgs& args, cudaStream_t stream);

// numbers[i] = factor * values[i] for i < count, values of any type; 0 without values.
cudaError_t soft_scaled(const Rows& values, int64_t count, double factor, double* numbers,
                        cudaStream_t stream);

// Latents or codes, with what of a logit's gradient belongs to each of them.
struct SoftSide {
  Rows rows;     // count x dim
  Rows weights;  // count x value_dim, optional: grad_expected, or values
  int64_t count = 0;
  const double* add = nullptr;      // to the logit; of latents the normalizer, which is subtracted
  const double* term = nullptr;     // optional
  const double* entropy = nullptr;  // optional
};

// The sums over all of `other`, for each of `own`. The one side is latents, the other codes.
struct SoftGradientArgs {
  SoftAssignProblem problem;
  const int64_t* seed = nullptr;
  SoftSide own, other;
  bool own_latents = false;
  Rows grad_rows;     // count x dim: by own.rows, optional
  Rows grad_add;      // count x 1: by the bias, optional
  Rows grad_weights;  // count x value_dim: of probabilities times other.weights, optional
};
cudaError_t soft_gradient(const SoftGradientArgs& args, cudaStream_t stream);

}  // namespace cuda
}  // namespace vqgan_fast
