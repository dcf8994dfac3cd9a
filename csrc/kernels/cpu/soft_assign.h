// soft_assign on the CPU: softmax over the codebook, block by block, so that no N x K matrix is
// held. docs/soft_assign.md has the formulas; vqgan_fast/ops/soft_assign.py says what each result
// is.
#pragma once

#include <cstdint>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/soft_assign_problem.h"

namespace vqgan_fast {

// Each but the statistics is optional.
struct SoftAssignResults {
  // num_rows x kSoftStatistics, before they are rounded: that would shift all probabilities of a
  // latent alike, and no sum averages that.
  double* statistics = nullptr;
  Rows log_sum_exp;  // num_rows x 1
  Rows expected;     // num_rows x value_dim
  Rows entropy;      // num_rows x 1, in nats
  // num_rows: the code of the largest l, the lowest on a tie; 0 for NaN
  int64_t* indices = nullptr;
};

void soft_assign(const SoftAssignProblem& problem, const SoftAssignResults& results,
                 const Parallel& parallel);

// out[k] = the mean over the rows of the probability of code k; num_codes x 1.
void soft_assign_mean(const SoftAssignProblem& problem, const double* statistics, const Rows& out,
                      const Parallel& parallel);

// The gradients of the results, and where those of the arguments go; docs/soft_assign.md has the
// formulas. What has no data is taken as zero or not computed.
struct SoftAssignGradients {
  const double* statistics = nullptr;             // num_rows x kSoftStatistics
  const double* grad_log_sum_exp = nullptr;       // num_rows, optional
  const double* grad_entropy = nullptr;           // num_rows, optional
  const double* grad_mean_probability = nullptr;  // num_codes, optional
  Rows grad_expected, expected;                   // num_rows x value_dim, optional
  Rows grad_z;                                    // num_rows x dim
  Rows grad_codebook;                             // num_codes x dim
  Rows grad_values;                               // num_codes x value_dim; needs grad_expected
  Rows grad_bias;                                 // num_codes x 1
};

void soft_assign_backward(const SoftAssignProblem& problem, const SoftAssignGradients& gradients,
                          const Parallel& parallel);

}  // namespace vqgan_fast
