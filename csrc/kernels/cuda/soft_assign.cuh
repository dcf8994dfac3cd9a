// soft_assign on CUDA: softmax over the codebook, tile by tile, without the N x K matrix. The
// problem and the formulas are those of the CPU (kernels/cpu/soft_assign.h, docs/soft_assign.md).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/soft_assign_problem.h"

namespace vqgan_fast {
namespace cuda {

// Pointers are to memory of the device everywhere below. What has no data is not there, or not
// computed.

// centre[d], dim numbers: the mean of the rows where it is large beside their scatter, else 0.
// `memory` has soft_offset_doubles(count, dim).
int64_t soft_offset_doubles(int64_t count, int64_t dim);
cudaError_t soft_offset(const Rows& rows, int64_t count, int64_t dim, double* memory, float* centre,
                        cudaStream_t stream);

// What logits are measured from. Where they are too large for fp32, which only the device knows,
// the kernels of fp64 do the work, and measure from 0.
struct SoftFrame {
  const float* centre = nullptr;       // dim, of the codes; of the latents too if squared
  const double* code_terms = nullptr;  // 2 x num_codes: (bias - ||e||^2 if squared) / temperature,
                                       // measured from the centre, and from 0
  const unsigned* largest = nullptr;   // bits of floats: ||e||^2, ||z||^2, |code term|
};
int64_t soft_frame_doubles(const SoftAssignProblem& problem);
cudaError_t soft_frame(const SoftAssignProblem& problem, double* memory, SoftFrame* frame,
                       cudaStream_t stream);

// As on the CPU. `seed` is read on the device, if the problem is noisy, and the problem's own is
// not used.
struct SoftForwardArgs {
  SoftAssignProblem problem;
  SoftFrame frame;
  const int64_t* seed = nullptr;
  double* statistics = nullptr;  // num_rows x kSoftStatistics
  Rows log_sum_exp;              // num_rows x 1
  Rows entropy;                  // num_rows x 1
  Rows expected;                 // num_rows x value_dim
  int64_t* indices = nullptr;    // num_rows
};
cudaError_t soft_forward(const SoftForwardArgs& args, cudaStream_t stream);

// What of a logit and of its gradient depends on the latent alone.
struct SoftLatentArgs {
  SoftAssignProblem problem;
  SoftFrame frame;
  const double* statistics = nullptr;
  const double* code_terms = nullptr;            // num_codes, of the gradient
  Rows grad_log_sum_exp, grad_entropy;           // num_rows x 1, optional
  Rows grad_expected;                            // num_rows x value_dim, optional
  const float* value_centre = nullptr;           // value_dim, optional
  double* add = nullptr;                         // num_rows: what makes u of a logit
  double *excess = nullptr, *entropy = nullptr;  // num_rows, these and what follows: all or none
  // What the code with the largest logit has: its product of grad_expected and value, and less its
  // term. Measured from them, what a latent is sure of does not drown the rest.
  double *anchor = nullptr, *term = nullptr;
};
cudaError_t soft_latents(const SoftLatentArgs& args, cudaStream_t stream);

// Completes the terms. `left`, num_rows, are the sums over the codes of the gradients by the bias
// without entropies and with the terms as they are; null for 0.
cudaError_t soft_balance(const SoftLatentArgs& args, const double* left, cudaStream_t stream);

// terms[k] = (grad_mean[k] - their mean) / num_rows, num_codes numbers; 0 without grad_mean.
cudaError_t soft_code_gradients(const SoftAssignProblem& problem, const Rows& grad_mean,
                                double* terms, cudaStream_t stream);

// out[k], num_codes x 1: the mean over the rows of the probability of code k. latent_add is what
// soft_latents gives without gradients.
struct SoftMeanArgs {
  SoftAssignProblem problem;
  SoftFrame frame;
  const int64_t* seed = nullptr;
  const double* latent_add = nullptr;
  Rows out;
};
cudaError_t soft_mean(const SoftMeanArgs& args, cudaStream_t stream);

// Latents or codes, with what of a logit's gradient belongs to each of them: p (term +
// grad_expected.value - entropy u), where u is the logit and `add` of both, and p = exp(u -
// excess).
struct SoftSide {
  Rows rows;     // count x dim
  Rows weights;  // count x value_dim, optional: grad_expected, or values
  int64_t count = 0;
  bool centred = false;                   // rows are measured from the frame's centre
  const float* weights_centre = nullptr;  // optional
  const double* add = nullptr;            // of latents; that of codes is the frame's
  const double *excess = nullptr, *term = nullptr, *entropy = nullptr;  // optional
  const double* anchor = nullptr;  // of latents, optional: taken from products of weights
};

// The sums over all of `other`, for each of `own`. The one side is latents, the other codes.
struct SoftGradientArgs {
  SoftAssignProblem problem;
  SoftFrame frame;
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
