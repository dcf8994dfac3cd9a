// soft_assign on the CPU: softmax over the codebook, block by block, so that no N x K matrix is
// held. docs/soft_assign.md has the formulas; vqgan_fast/ops/soft_assign.py says what each result
// is.
#pragma once

#include <cstdint>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/soft_assign_problem.h"

namespace vqgan_fast {

// Each but the normalizer is optional.
struct SoftAssignResults {
  // num_rows: the log of the sum of exponentials of l + ||z||^2 / temperature if `squared`, of l if
  // not. The backward pass takes it from here, not from `log_sum_exp`, whose rounding would count
  // where ||z||^2 / temperature is large.
  double* normalizer = nullptr;
  Rows log_sum_exp;  // num_rows x 1
  Rows expected;     // num_rows x value_dim
  Rows entropy;      // num_rows x 1, in nats
  int64_t* indices =
      nullptr;  // num_rows: the code of the largest l, the lowest on a tie; 0 for NaN
};

void soft_assign(const SoftAssignProblem& problem, const SoftAssignResults& results,
                 const Parallel& parallel);

// out[k] = the mean over the rows of the probability of code k; num_codes x 1.
void soft_assign_mean(const SoftAssignProblem& problem, const double* normalizer, const Rows& out,
                      const Parallel& parallel);

// With p the probabilities, the gradient of the loss by l is
//
//   p_nk (row_term_n + code_term_k + grad_expected_n . value_k - grad_entropy_n log p_nk)
//
// where row_term gathers what does not depend on k. What has no data is taken as zero or not
// computed.
struct SoftAssignGradients {
  const double* normalizer = nullptr;    // num_rows
  const double* row_term = nullptr;      // num_rows
  const double* code_term = nullptr;     // num_codes, optional
  const double* grad_entropy = nullptr;  // num_rows, optional
  Rows grad_expected;                    // num_rows x value_dim, optional
  Rows grad_z;                           // num_rows x dim
  Rows grad_codebook;                    // num_codes x dim
  Rows grad_values;                      // num_codes x value_dim; needs grad_expected
  Rows grad_bias;                        // num_codes x 1
};

void soft_assign_backward(const SoftAssignProblem& problem, const SoftAssignGradients& gradients,
                          const Parallel& parallel);

}  // namespace vqgan_fast
