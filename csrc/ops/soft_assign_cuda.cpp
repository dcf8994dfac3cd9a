#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "kernels/cuda/soft_assign.cuh"
#include "ops/cuda_launch.h"
#include "ops/soft_assign.h"

namespace vqgan_fast::ops {
namespace {

const int64_t* seed_of(const OptionalTensor& seed) {
  return seed.has_value() ? static_cast<const int64_t*>(seed->data_ptr()) : nullptr;
}

double* doubles(const Tensor& t) { return static_cast<double*>(t.data_ptr()); }

Tensor code_terms_of(const SoftAssignProblem& problem, const Tensor& z,
                     const CudaContext& context) {
  const Tensor terms = torch::stable::new_empty(z, {problem.num_codes}, ScalarType::Double);
  check_cuda(cuda::soft_code_terms(problem, doubles(terms), context.stream()), "soft_assign");
  return terms;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> soft_assign_cuda(
    const Tensor& z, const Tensor& codebook, OptionalTensor values, OptionalTensor bias,
    OptionalTensor seed, double temperature, bool squared, bool need_entropy, bool need_mean,
    bool need_indices) {
  const SoftAssignArguments arguments =
      check_soft_assign(z, codebook, values, bias, seed, temperature, squared);
  const SoftAssignProblem& problem = arguments.problem;
  const ScalarType type = arguments.type;
  const auto per_row = [&](bool needed, ScalarType dtype) {
    return needed ? torch::stable::new_empty(z, index_shape(z), dtype)
                  : torch::stable::new_empty(z, {0}, dtype);
  };
  Tensor log_sum_exp = per_row(true, type);
  Tensor normalizer = per_row(true, ScalarType::Double);
  Tensor entropy = per_row(need_entropy, type);
  Tensor indices = per_row(need_indices, ScalarType::Long);
  Tensor mean = torch::stable::new_empty(z, {need_mean ? problem.num_codes : 0}, type);
  std::vector<int64_t> sizes = {0};
  if (values.has_value()) {
    sizes.assign(index_shape(z).begin(), index_shape(z).end());
    sizes.push_back(problem.value_dim);
  }
  Tensor expected = torch::stable::new_empty(z, sizes, type);

  const DType dtype = dtype_of(type);
  const CudaContext context(z);
  const Tensor terms = code_terms_of(problem, z, context);
  if (problem.num_rows > 0) {
    const auto column = [&](const Tensor& t) {
      return contiguous_rows(t.data_ptr(), dtype, problem.num_rows, 1);
    };
    cuda::SoftForwardArgs args;
    args.problem = problem;
    args.seed = seed_of(seed);
    args.code_terms = doubles(terms);
    args.normalizer = doubles(normalizer);
    args.log_sum_exp = column(log_sum_exp);
    if (need_entropy) args.entropy = column(entropy);
    if (values.has_value()) {
      args.expected =
          contiguous_rows(expected.data_ptr(), dtype, problem.num_rows, problem.value_dim);
    }
    if (need_indices) args.indices = static_cast<int64_t*>(indices.data_ptr());
    check_cuda(cuda::soft_forward(args, context.stream()), "soft_assign");
  }
  if (need_mean) {
    check_cuda(cuda::soft_mean(problem, seed_of(seed), doubles(terms), doubles(normalizer),
                               contiguous_rows(mean.data_ptr(), dtype, problem.num_codes, 1),
                               context.stream()),
               "soft_assign");
  }
  return {log_sum_exp, expected, entropy, mean, indices, normalizer};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_assign_backward_cuda(
    OptionalTensor grad_log_sum_exp, OptionalTensor grad_expected, OptionalTensor grad_entropy,
    OptionalTensor grad_mean, const Tensor& z, const Tensor& codebook, OptionalTensor values,
    OptionalTensor bias, OptionalTensor seed, const Tensor& expected, const Tensor& entropy,
    const Tensor& normalizer, double temperature, bool squared, bool need_z, bool need_codebook,
    bool need_values, bool need_bias) {
  const SoftAssignArguments arguments =
      check_soft_assign(z, codebook, values, bias, seed, temperature, squared);
  const SoftAssignProblem& problem = arguments.problem;
  check_soft_assign_gradients(problem, z, grad_log_sum_exp, grad_expected, grad_entropy, grad_mean,
                              expected, entropy, normalizer);
  const auto nothing = [&] { return torch::stable::new_empty(z, {0}); };
  Tensor grad_z = nothing(), grad_codebook = nothing(), grad_values = nothing();
  Tensor grad_bias = nothing();
  std::optional<RowsLike> grad_z_rows;
  if (need_z) grad_z_rows.emplace(z);
  if (need_codebook) grad_codebook = torch::stable::empty_like(codebook);
  if (need_values && values.has_value()) grad_values = torch::stable::empty_like(*values);
  if (need_bias && bias.has_value()) grad_bias = torch::stable::empty_like(*bias);
  if (z.numel() == 0) {  // the sums over no latents
    for (Tensor* grad : {&grad_codebook, &grad_values, &grad_bias}) {
      torch::stable::fill_(*grad, 0.0);
    }
    return {need_z ? grad_z_rows->finish() : grad_z, grad_codebook, grad_values, grad_bias};
  }

  const CudaContext context(z);
  const auto launched = [](cudaError_t error) { check_cuda(error, "soft_assign_backward"); };
  const int64_t num_rows = problem.num_rows, num_codes = problem.num_codes;
  const auto scaled = [&](const OptionalTensor& t, int64_t count, double factor) {
    const Tensor numbers = torch::stable::new_empty(z, {count}, ScalarType::Double);
    Tensor flat;
    Rows rows;
    if (t.has_value()) {
      flat = torch::stable::contiguous(*t);
      rows = contiguous_rows(flat.data_ptr(), dtype_of(flat.scalar_type()), count, 1);
    }
    launched(cuda::soft_scaled(rows, count, factor, doubles(numbers), context.stream()));
    return numbers;
  };
  const Tensor terms = code_terms_of(problem, z, context);
  const Tensor code_term = scaled(grad_mean, num_codes, 1.0 / static_cast<double>(num_rows));
  const Tensor entropy_gradient = scaled(grad_entropy, num_rows, 1.0);
  const Tensor flat_normalizer = torch::stable::contiguous(normalizer);

  // The mean of code_term under each row's probabilities, by the forward pass.
  const Tensor code_mean = torch::stable::new_empty(z, {num_rows}, ScalarType::Double);
  const Tensor unused = torch::stable::new_empty(z, {num_rows}, ScalarType::Double);
  if (grad_mean.has_value()) {
    cuda::SoftForwardArgs average;
    average.problem = problem;
    average.problem.values = contiguous_rows(code_term.data_ptr(), DType::kFloat64, num_codes, 1);
    average.problem.value_dim = 1;
    average.seed = seed_of(seed);
    average.code_terms = doubles(terms);
    average.normalizer = doubles(unused);
    average.expected = contiguous_rows(code_mean.data_ptr(), DType::kFloat64, num_rows, 1);
    launched(cuda::soft_forward(average, context.stream()));
  }

  Tensor expected_holder, grad_expected_holder, holders[3];
  const auto column = [&](const OptionalTensor& t, Tensor* holder) {
    if (!t.has_value()) return Rows();
    *holder = torch::stable::contiguous(*t);
    return contiguous_rows(holder->data_ptr(), dtype_of(holder->scalar_type()), num_rows, 1);
  };
  const Tensor row_term = torch::stable::new_empty(z, {num_rows}, ScalarType::Double);
  cuda::SoftRowTermsArgs row_terms;
  row_terms.num_rows = num_rows;
  row_terms.value_dim = problem.value_dim;
  row_terms.grad_log_sum_exp = column(grad_log_sum_exp, &holders[0]);
  if (grad_entropy.has_value()) {
    row_terms.grad_entropy = column(grad_entropy, &holders[1]);
    row_terms.entropy = column(entropy, &holders[2]);
  }
  if (grad_expected.has_value()) {
    row_terms.grad_expected = rows_of(*grad_expected, &grad_expected_holder);
    row_terms.expected = rows_of(expected, &expected_holder);
  }
  if (grad_mean.has_value()) row_terms.code_mean = doubles(code_mean);
  row_terms.terms = doubles(row_term);
  launched(cuda::soft_row_terms(row_terms, context.stream()));

  cuda::SoftGradientArgs args;
  args.problem = problem;
  args.seed = seed_of(seed);
  cuda::SoftSide latents, codes;
  latents.rows = problem.z;
  latents.weights = row_terms.grad_expected;
  latents.count = num_rows;
  latents.add = doubles(flat_normalizer);
  latents.term = doubles(row_term);
  latents.entropy = doubles(entropy_gradient);
  codes.rows = problem.codebook;
  if (grad_expected.has_value()) codes.weights = problem.values;
  codes.count = num_codes;
  codes.add = doubles(terms);
  codes.term = doubles(code_term);
  if (need_z) {
    args.own = latents;
    args.other = codes;
    args.own_latents = true;
    args.grad_rows = grad_z_rows->rows(false, 0);
    launched(cuda::soft_gradient(args, context.stream()));
    grad_z = grad_z_rows->finish();
  }
  args.own = codes;
  args.other = latents;
  args.own_latents = false;
  args.grad_rows = grad_codebook.numel() > 0 ? head_rows(grad_codebook, 0) : Rows();
  if (grad_bias.numel() > 0) args.grad_add = vector_rows(grad_bias);
  if (grad_values.numel() > 0) {
    if (grad_expected.has_value()) {
      args.grad_weights = head_rows(grad_values, 0);
    } else {
      torch::stable::fill_(grad_values, 0.0);
    }
  }
  launched(cuda::soft_gradient(args, context.stream()));
  return {grad_z, grad_codebook, grad_values, grad_bias};
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CUDA, m) {
  m.impl("soft_assign", TORCH_BOX(&vqgan_fast::ops::soft_assign_cuda));
  m.impl("soft_assign_backward", TORCH_BOX(&vqgan_fast::ops::soft_assign_backward_cuda));
}
