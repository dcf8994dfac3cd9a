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
  std::vector<int64_t> sizes(shape.begin(), shape.end());
  sizes.push_back(kSoftStatistics);
  Tensor statistics = empty_on_cpu(sizes, ScalarType::Double);
  Tensor entropy = per_row(need_entropy, ScalarType::Double);
  Tensor indices = per_row(need_indices, ScalarType::Long);
  Tensor mean = empty_on_cpu({need_mean ? problem.num_codes : 0}, ScalarType::Double);
  sizes.back() = problem.value_dim;
  Tensor expected = values.has_value() ? empty_on_cpu(sizes, type) : empty_on_cpu({0}, type);

  const DType dtype = dtype_of(type);
  const auto one_column = [](const Tensor& t) {
    return contiguous_rows(t.data_ptr(), dtype_of(t.scalar_type()), t.numel(), 1);
  };
  SoftAssignResults results;
  results.statistics = static_cast<double*>(statistics.data_ptr());
  results.log_sum_exp = one_column(log_sum_exp);
  if (values.has_value()) {
    results.expected =
        contiguous_rows(expected.data_ptr(), dtype, problem.num_rows, problem.value_dim);
  }
  if (need_entropy) results.entropy = one_column(entropy);
  if (need_indices) results.indices = static_cast<int64_t*>(indices.data_ptr());
  if (problem.num_rows > 0) soft_assign(problem, results, torch_parallel());
  if (need_mean) {
    soft_assign_mean(problem, results.statistics, one_column(mean), torch_parallel());
  }
  return {log_sum_exp, expected, entropy, mean, indices, statistics};
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

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_assign_backward_cpu(
    OptionalTensor grad_log_sum_exp, OptionalTensor grad_expected, OptionalTensor grad_entropy,
    OptionalTensor grad_mean, const Tensor& z, const Tensor& codebook, OptionalTensor values,
    OptionalTensor bias, OptionalTensor seed, const Tensor& expected, const Tensor& statistics,
    double temperature, bool squared, bool need_z, bool need_codebook, bool need_values,
    bool need_bias) {
  SoftAssignArguments arguments =
      check_soft_assign(z, codebook, values, bias, seed, temperature, squared);
  SoftAssignProblem& problem = arguments.problem;
  problem.seed = value_of_seed(seed);
  check_soft_assign_gradients(problem, z, grad_log_sum_exp, grad_expected, grad_entropy, grad_mean,
                              expected, statistics);
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
    grad_codebook = on_large_pages(torch::stable::empty_like(codebook));
    gradients.grad_codebook = head_rows(grad_codebook, 0);
  }
  if (need_values && values.has_value()) {
    grad_values = on_large_pages(torch::stable::empty_like(*values));
    if (grad_expected.has_value()) {
      gradients.grad_values = head_rows(grad_values, 0);
    } else {
      torch::stable::fill_(grad_values, 0.0);
    }
  }
  if (need_bias && bias.has_value()) {
    grad_bias = on_large_pages(torch::stable::empty_like(*bias));
    gradients.grad_bias = vector_rows(grad_bias);
  }

  Tensor holder;
  if (grad_expected.has_value()) gradients.grad_expected = rows_of(*grad_expected, &holder);
  Tensor expected_holder;
  if (grad_expected.has_value()) gradients.expected = rows_of(expected, &expected_holder);
  const Tensor flat = torch::stable::contiguous(statistics);
  gradients.statistics = static_cast<const double*>(flat.data_ptr());
  const std::vector<double> of_log_sum_exp = doubles_of(grad_log_sum_exp);
  const std::vector<double> of_entropy = doubles_of(grad_entropy), of_mean = doubles_of(grad_mean);
  if (grad_log_sum_exp.has_value()) gradients.grad_log_sum_exp = of_log_sum_exp.data();
  if (grad_entropy.has_value()) gradients.grad_entropy = of_entropy.data();
  if (grad_mean.has_value()) gradients.grad_mean_probability = of_mean.data();
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
