// soft_assign's launchers, put together as csrc/ops/soft_assign_cuda.cpp does.
#include <cstdint>

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

// The frame, and the memory that it lies in.
struct Frame {
  Scratch<double> memory;
  cuda::SoftFrame frame;
  int error;

  explicit Frame(const SoftAssignProblem& problem)
      : memory(static_cast<size_t>(cuda::soft_frame_doubles(problem))),
        error(cuda::soft_frame(problem, memory.data(), &frame, nullptr)) {}
};

int soft_assign(const SoftArguments* arguments, double* statistics, const Rows* log_sum_exp,
                const Rows* entropy, const Rows* expected, int64_t* indices, const Rows* mean) {
  cuda::SoftForwardArgs args;
  args.problem = problem_of(*arguments);
  const Frame frame(args.problem);
  args.frame = frame.frame;
  args.seed = arguments->seed;
  args.statistics = statistics;
  args.log_sum_exp = *log_sum_exp;
  args.entropy = *entropy;
  if (expected != nullptr) args.expected = *expected;
  args.indices = indices;
  int error = frame.error | cuda::soft_forward(args, nullptr);
  const Scratch<double> latent_add(static_cast<size_t>(args.problem.num_rows));
  cuda::SoftLatentArgs latents;
  latents.problem = args.problem;
  latents.frame = frame.frame;
  latents.statistics = statistics;
  latents.add = latent_add.data();
  error |= cuda::soft_latents(latents, nullptr);
  cuda::SoftMeanArgs means;
  means.problem = args.problem;
  means.frame = frame.frame;
  means.seed = args.seed;
  means.latent_add = latent_add.data();
  means.out = *mean;
  return error | cuda::soft_mean(means, nullptr);
}

// All gradients but those of what is not there.
int soft_assign_backward(const SoftArguments* arguments, const double* statistics,
                         const Rows* grad_log_sum_exp, const Rows* grad_expected,
                         const Rows* grad_entropy, const Rows* grad_mean, const Rows* grad_z,
                         const Rows* grad_codebook, const Rows* grad_values,
                         const Rows* grad_bias) {
  const SoftAssignProblem problem = problem_of(*arguments);
  const Frame frame(problem);
  const auto num_rows = static_cast<size_t>(problem.num_rows);
  const Scratch<double> code_term(static_cast<size_t>(problem.num_codes)), of_latents(6 * num_rows);
  int error = frame.error;
  error |= cuda::soft_code_gradients(problem, *grad_mean, code_term.data(), nullptr);
  cuda::SoftLatentArgs terms;
  terms.problem = problem;
  terms.frame = frame.frame;
  terms.statistics = statistics;
  terms.code_terms = code_term.data();
  terms.grad_log_sum_exp = *grad_log_sum_exp;
  terms.grad_entropy = *grad_entropy;
  const Scratch<double> offset_memory(
      static_cast<size_t>(cuda::soft_offset_doubles(problem.num_codes, problem.value_dim)));
  const Scratch<float> value_centre(static_cast<size_t>(problem.value_dim));
  if (grad_expected != nullptr) {
    terms.grad_expected = *grad_expected;
    error |= cuda::soft_offset(problem.values, problem.num_codes, problem.value_dim,
                               offset_memory.data(), value_centre.data(), nullptr);
    terms.value_centre = value_centre.data();
  }
  terms.add = of_latents.data();
  terms.excess = terms.add + num_rows;
  terms.entropy = terms.excess + num_rows;
  terms.anchor = terms.entropy + num_rows;
  terms.term = terms.anchor + num_rows;
  error |= cuda::soft_latents(terms, nullptr);

  cuda::SoftSide latents, codes;
  latents.rows = problem.z;
  latents.count = problem.num_rows;
  latents.centred = problem.squared;
  latents.add = terms.add;
  latents.excess = terms.excess;
  latents.anchor = terms.anchor;
  latents.term = terms.term;
  codes.rows = problem.codebook;
  codes.count = problem.num_codes;
  codes.centred = true;
  codes.term = code_term.data();
  if (grad_expected != nullptr) {
    latents.weights = *grad_expected;
    codes.weights = problem.values;
    codes.weights_centre = value_centre.data();
  }
  cuda::SoftGradientArgs args;
  args.problem = problem;
  args.frame = frame.frame;
  args.seed = arguments->seed;
  args.own = latents;
  args.other = codes;
  args.own_latents = true;
  double* left = terms.term + num_rows;
  args.grad_add =
      vqgan_fast::contiguous_rows(left, vqgan_fast::DType::kFloat64, problem.num_rows, 1);
  error |= cuda::soft_gradient(args, nullptr);
  args.grad_add = Rows();
  error |= cuda::soft_balance(terms, left, nullptr);
  args.own.entropy = latents.entropy = terms.entropy;
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
