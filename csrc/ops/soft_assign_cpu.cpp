#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "kernels/cpu/row_block.h"
#include "kernels/cpu/soft_assign.h"
#include "ops/checks.h"
#include "ops/parallel_cpu.h"
#include "ops/soft_assign.h"
#include "ops/tensor_rows.h"

namespace vqgan_fast::ops {
namespace {

uint64_t value_of_seed(const OptionalTensor& seed) {
  return seed.has_value() ? static_cast<uint64_t>(*static_cast<const int64_t*>(seed->data_ptr()))
                          : 0;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> soft_assign_cpu(
    const Tensor& z, const Tensor& codebook, OptionalTensor values, OptionalTensor bias,
    OptionalTensor seed, double temperature, bool squared, bool need_entropy, bool need_mean,
    bool need_indices) {
  SoftAssignArguments arguments =
      check_soft_assign(z, codebook, values, bias, seed, temperature, squared);
  SoftAssignProblem& problem = arguments.problem;
  problem.seed = value_of_seed(seed);
  const IntHeaderOnlyArrayRef shape = index_shape(z);
  const auto per_row = [&](bool needed, ScalarType type) {
    return needed ? empty_on_cpu(shape, type) : empty_on_cpu({0}, type);
  };
  const ScalarType type = arguments.type;
  Tensor log_sum_exp = per_row(true, type);
  Tensor normalizer = per_row(true, ScalarType::Double);
  Tensor entropy = per_row(need_entropy, type);
  Tensor indices = per_row(need_indices, ScalarType::Long);
  Tensor mean = empty_on_cpu({need_mean ? problem.num_codes : 0}, type);
  std::vector<int64_t> sizes(shape.begin(), shape.end());
  sizes.push_back(problem.value_dim);
  Tensor expected = values.has_value() ? empty_on_cpu(sizes, type) : empty_on_cpu({0}, type);

  const DType dtype = dtype_of(type);
  const auto one_column = [&](const Tensor& t) {
    return contiguous_rows(t.data_ptr(), dtype, problem.num_rows, 1);
  };
  SoftAssignResults results;
  results.normalizer = static_cast<double*>(normalizer.data_ptr());
  results.log_sum_exp = one_column(log_sum_exp);
  if (values.has_value()) {
    results.expected =
        contiguous_rows(expected.data_ptr(), dtype, problem.num_rows, problem.value_dim);
  }
  if (need_entropy) results.entropy = one_column(entropy);
  if (need_indices) results.indices = static_cast<int64_t*>(indices.data_ptr());
  if (problem.num_rows > 0) soft_assign(problem, results, torch_parallel());
  if (need_mean) {
    soft_assign_mean(problem, results.normalizer,
                     contiguous_rows(mean.data_ptr(), dtype, problem.num_codes, 1),
                     torch_parallel());
  }
  return {log_sum_exp, expected, entropy, mean, indices, normalizer};
}

// The numbers of a vector or of one for each row, as doubles; none without a tensor.
std::vector<double> doubles_of(const OptionalTensor& t) {
  if (!t.has_value()) return {};
  const Tensor flat = torch::stable::contiguous(*t);
  std::vector<double> out(static_cast<size_t>(flat.numel()));
  const Rows rows = contiguous_rows(flat.data_ptr(), dtype_of(flat.scalar_type()), flat.numel(), 1);
  if (!out.empty()) load_rows(rows, 0, flat.numel(), 1, out.data());
  return out;
}

// What of the gradient by a logit depends on its latent alone: docs/soft_assign.md.
std::vector<double> row_terms(const SoftAssignProblem& problem,
                              const std::vector<double>& grad_log_sum_exp,
                              const std::vector<double>& grad_entropy,
                              const std::vector<double>& code_term, const Rows& grad_expected,
                              const Tensor& expected, const std::vector<double>& entropy) {
  std::vector<double> terms(static_cast<size_t>(problem.num_rows));
  if (!code_term.empty()) {
    // The mean of code_term under each row's probabilities, by the forward pass.
    std::vector<double> means(terms.size()), unused(terms.size());
    SoftAssignProblem average = problem;
    average.values = contiguous_rows(code_term.data(), DType::kFloat64, problem.num_codes, 1);
    average.value_dim = 1;
    SoftAssignResults results;
    results.normalizer = unused.data();
    results.expected = contiguous_rows(means.data(), DType::kFloat64, problem.num_rows, 1);
    soft_assign(average, results, torch_parallel());
    for (size_t n = 0; n < terms.size(); ++n) terms[n] -= means[n];
  }
  const int64_t columns = problem.value_dim;
  const bool weighted = grad_expected.data != nullptr;
  Rows outputs;
  if (weighted) {
    outputs = contiguous_rows(expected.data_ptr(), dtype_of(expected.scalar_type()),
                              problem.num_rows, columns);
  }
  torch_parallel().run(0, problem.num_rows, 256, [&](int64_t begin, int64_t end) {
    std::vector<double> gradient(static_cast<size_t>(columns)), output(gradient.size());
    for (int64_t n = begin; n < end; ++n) {
      if (!grad_log_sum_exp.empty()) terms[n] += grad_log_sum_exp[n];
      if (!grad_entropy.empty()) terms[n] -= grad_entropy[n] * entropy[n];
      if (!weighted) continue;
      load_rows(grad_expected, n, 1, columns, gradient.data());
      load_rows(outputs, n, 1, columns, output.data());
      for (int64_t d = 0; d < columns; ++d) terms[n] -= gradient[d] * output[d];
    }
  });
  return terms;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_assign_backward_cpu(
    OptionalTensor grad_log_sum_exp, OptionalTensor grad_expected, OptionalTensor grad_entropy,
    OptionalTensor grad_mean, const Tensor& z, const Tensor& codebook, OptionalTensor values,
    OptionalTensor bias, OptionalTensor seed, const Tensor& expected, const Tensor& entropy,
    const Tensor& normalizer, double temperature, bool squared, bool need_z, bool need_codebook,
    bool need_values, bool need_bias) {
  SoftAssignArguments arguments =
      check_soft_assign(z, codebook, values, bias, seed, temperature, squared);
  SoftAssignProblem& problem = arguments.problem;
  problem.seed = value_of_seed(seed);
  check_soft_assign_gradients(problem, z, grad_log_sum_exp, grad_expected, grad_entropy, grad_mean,
                              expected, entropy, normalizer);
  const auto nothing = [&] { return torch::stable::new_empty(z, {0}); };
  Tensor grad_z = nothing(), grad_codebook = nothing(), grad_values = nothing();
  Tensor grad_bias = nothing();
  std::optional<RowsLike> grad_z_rows;
  SoftAssignGradients gradients;
  if (need_z) {
    grad_z_rows.emplace(z);
    if (z.numel() > 0) gradients.grad_z = grad_z_rows->rows(false, 0);
  }
  if (need_codebook) {
    grad_codebook = torch::stable::empty_like(codebook);
    gradients.grad_codebook = head_rows(grad_codebook, 0);
  }
  if (need_values && values.has_value()) {
    grad_values = torch::stable::empty_like(*values);
    if (grad_expected.has_value()) {
      gradients.grad_values = head_rows(grad_values, 0);
    } else {
      torch::stable::fill_(grad_values, 0.0);
    }
  }
  if (need_bias && bias.has_value()) {
    grad_bias = torch::stable::empty_like(*bias);
    gradients.grad_bias = vector_rows(grad_bias);
  }

  Tensor holder;
  if (grad_expected.has_value()) gradients.grad_expected = rows_of(*grad_expected, &holder);
  const std::vector<double> entropy_gradient = doubles_of(grad_entropy);
  std::vector<double> code_term = doubles_of(grad_mean);
  for (double& x : code_term) x /= static_cast<double>(problem.num_rows);
  const Tensor flat = torch::stable::contiguous(normalizer);
  gradients.normalizer = static_cast<const double*>(flat.data_ptr());
  const std::vector<double> row_term =
      row_terms(problem, doubles_of(grad_log_sum_exp), entropy_gradient, code_term,
                gradients.grad_expected, torch::stable::contiguous(expected), doubles_of(entropy));
  gradients.row_term = row_term.data();
  if (grad_mean.has_value()) gradients.code_term = code_term.data();
  if (grad_entropy.has_value()) gradients.grad_entropy = entropy_gradient.data();
  soft_assign_backward(problem, gradients, torch_parallel());
  if (need_z) grad_z = grad_z_rows->finish();
  return {grad_z, grad_codebook, grad_values, grad_bias};
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CPU, m) {
  m.impl("soft_assign", TORCH_BOX(&vqgan_fast::ops::soft_assign_cpu));
  m.impl("soft_assign_backward", TORCH_BOX(&vqgan_fast::ops::soft_assign_backward_cpu));
}
