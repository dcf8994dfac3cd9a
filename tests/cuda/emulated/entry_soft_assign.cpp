// soft_assign's launchers, put together as csrc/ops/soft_assign_cuda.cpp does.
#include <cstdint>
#include <vector>

#include "entry.h"
#include "kernels/cuda/soft_assign.cuh"

using vqgan_fast::Rows;
using vqgan_fast::SoftAssignProblem;
namespace cuda = vqgan_fast::cuda;

extern "C" {

struct SoftArguments {
  const Rows* z;
  const Rows* codebook;
  const Rows* values;  // these may be null
  const Rows* bias;
  const int64_t* seed;
  int64_t num_rows, num_codes, dim, value_dim;
  double temperature;
  int squared, fp64;
};

static SoftAssignProblem problem_of(const SoftArguments& a) {
  SoftAssignProblem problem;
  problem.z = *a.z;
  problem.codebook = *a.codebook;
  if (a.values != nullptr) problem.values = *a.values;
  if (a.bias != nullptr) problem.bias = *a.bias;
  problem.num_rows = a.num_rows;
  problem.num_codes = a.num_codes;
  problem.dim = a.dim;
  problem.value_dim = a.value_dim;
  problem.temperature = a.temperature;
  problem.squared = a.squared != 0;
  problem.noisy = a.seed != nullptr;
  problem.fp64 = a.fp64 != 0;
  return problem;
}

int soft_assign(const SoftArguments* arguments, double* normalizer, const Rows* log_sum_exp,
                const Rows* entropy, const Rows* expected, int64_t* indices, const Rows* mean) {
  cuda::SoftForwardArgs args;
  args.problem = problem_of(*arguments);
  std::vector<double> terms(static_cast<size_t>(arguments->num_codes));
  int error = cuda::soft_code_terms(args.problem, terms.data(), nullptr);
  args.seed = arguments->seed;
  args.code_terms = terms.data();
  args.normalizer = normalizer;
  args.log_sum_exp = *log_sum_exp;
  args.entropy = *entropy;
  if (expected != nullptr) args.expected = *expected;
  args.indices = indices;
  error |= cuda::soft_forward(args, nullptr);
  return error | cuda::soft_mean(args.problem, args.seed, terms.data(), normalizer, *mean, nullptr);
}

// All gradients but those of what is not there. grad_mean is already divided by the rows.
int soft_assign_backward(const SoftArguments* arguments, const double* normalizer,
                         const Rows* grad_log_sum_exp, const Rows* grad_expected,
                         const Rows* expected, const Rows* grad_entropy, const Rows* entropy,
                         const double* grad_mean, const Rows* grad_z, const Rows* grad_codebook,
                         const Rows* grad_values, const Rows* grad_bias) {
  const SoftAssignProblem problem = problem_of(*arguments);
  const auto num_rows = static_cast<size_t>(problem.num_rows);
  std::vector<double> terms(static_cast<size_t>(problem.num_codes)), code_mean(num_rows),
      unused(num_rows), row_term(num_rows), entropy_gradient(num_rows);
  int error = cuda::soft_code_terms(problem, terms.data(), nullptr);
  cuda::SoftForwardArgs average;
  average.problem = problem;
  average.problem.values =
      vqgan_fast::contiguous_rows(grad_mean, vqgan_fast::DType::kFloat64, problem.num_codes, 1);
  average.problem.value_dim = 1;
  average.seed = arguments->seed;
  average.code_terms = terms.data();
  average.normalizer = unused.data();
  average.expected = vqgan_fast::contiguous_rows(code_mean.data(), vqgan_fast::DType::kFloat64,
                                                 problem.num_rows, 1);
  error |= cuda::soft_forward(average, nullptr);
  cuda::SoftRowTermsArgs rows;
  rows.num_rows = problem.num_rows;
  rows.value_dim = problem.value_dim;
  rows.grad_log_sum_exp = *grad_log_sum_exp;
  rows.grad_entropy = *grad_entropy;
  rows.entropy = *entropy;
  if (grad_expected != nullptr) rows.grad_expected = *grad_expected;
  if (grad_expected != nullptr) rows.expected = *expected;
  rows.code_mean = code_mean.data();
  rows.terms = row_term.data();
  error |= cuda::soft_row_terms(rows, nullptr);
  error |=
      cuda::soft_scaled(*grad_entropy, problem.num_rows, 1.0, entropy_gradient.data(), nullptr);

  cuda::SoftSide latents, codes;
  latents.rows = problem.z;
  latents.count = problem.num_rows;
  latents.add = normalizer;
  latents.term = row_term.data();
  latents.entropy = entropy_gradient.data();
  codes.rows = problem.codebook;
  codes.count = problem.num_codes;
  codes.add = terms.data();
  codes.term = grad_mean;
  if (grad_expected != nullptr) {
    latents.weights = *grad_expected;
    codes.weights = problem.values;
  }
  cuda::SoftGradientArgs args;
  args.problem = problem;
  args.seed = arguments->seed;
  args.own = latents;
  args.other = codes;
  args.own_latents = true;
  args.grad_rows = *grad_z;
  error |= cuda::soft_gradient(args, nullptr);
  args.own = codes;
  args.other = latents;
  args.own_latents = false;
  args.grad_rows = *grad_codebook;
  if (grad_bias != nullptr) args.grad_add = *grad_bias;
  if (grad_values != nullptr) args.grad_weights = *grad_values;
  return error | cuda::soft_gradient(args, nullptr);
}

}  // extern "C"
