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

void launched(cudaError_t error) { check_cuda(error, "soft_assign"); }

Tensor new_doubles(const Tensor& z, int64_t count) {
  return torch::stable::new_empty(z, {count}, ScalarType::Double);
}

// What logits are measured from, and the memory that it lies in.
struct Frame {
  Tensor memory;
  cuda::SoftFrame frame;

  Frame(const SoftAssignProblem& problem, const Tensor& z, const CudaContext& context)
      : memory(new_doubles(z, cuda::soft_frame_doubles(problem))) {
    launched(cuda::soft_frame(problem, doubles(memory), &frame, context.stream()));
  }
};

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
  std::vector<int64_t> sizes(index_shape(z).begin(), index_shape(z).end());
  sizes.push_back(kSoftStatistics);
  Tensor statistics = torch::stable::new_empty(z, sizes, ScalarType::Double);
  Tensor entropy = per_row(need_entropy, ScalarType::Double);
  Tensor indices = per_row(need_indices, ScalarType::Long);
  Tensor mean =
      torch::stable::new_empty(z, {need_mean ? problem.num_codes : 0}, ScalarType::Double);
  sizes.back() = problem.value_dim;
  if (!values.has_value()) sizes = {0};
  Tensor expected = torch::stable::new_empty(z, sizes, type);

  const auto column = [](const Tensor& t) {
    return contiguous_rows(t.data_ptr(), dtype_of(t.scalar_type()), t.numel(), 1);
  };
  const CudaContext context(z);
  const Frame frame(problem, z, context);
  if (problem.num_rows > 0) {
    cuda::SoftForwardArgs args;
    args.problem = problem;
    args.seed = seed_of(seed);
    args.frame = frame.frame;
    args.statistics = doubles(statistics);
    args.log_sum_exp = column(log_sum_exp);
    if (need_entropy) args.entropy = column(entropy);
    if (values.has_value()) {
      args.expected =
          contiguous_rows(expected.data_ptr(), dtype_of(type), problem.num_rows, problem.value_dim);
    }
    if (need_indices) args.indices = static_cast<int64_t*>(indices.data_ptr());
    launched(cuda::soft_forward(args, context.stream()));
  }
  if (need_mean) {
    const Tensor latent_add = new_doubles(z, problem.num_rows);
    cuda::SoftLatentArgs latents;
    latents.problem = problem;
    latents.frame = frame.frame;
    latents.statistics = doubles(statistics);
    latents.add = doubles(latent_add);
    launched(cuda::soft_latents(latents, context.stream()));
    cuda::SoftMeanArgs args;
    args.problem = problem;
    args.frame = frame.frame;
    args.seed = seed_of(seed);
    args.latent_add = doubles(latent_add);
    args.out = column(mean);
    launched(cuda::soft_mean(args, context.stream()));
  }
  return {log_sum_exp, expected, entropy, mean, indices, statistics};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_assign_backward_cuda(
    OptionalTensor grad_log_sum_exp, OptionalTensor grad_expected, OptionalTensor grad_entropy,
    OptionalTensor grad_mean, const Tensor& z, const Tensor& codebook, OptionalTensor values,
    OptionalTensor bias, OptionalTensor seed, const Tensor& expected, const Tensor& statistics,
    double temperature, bool squared, bool need_z, bool need_codebook, bool need_values,
    bool need_bias) {
  const SoftAssignArguments arguments =
      check_soft_assign(z, codebook, values, bias, seed, temperature, squared);
  SoftAssignProblem problem = arguments.problem;
  check_soft_assign_gradients(problem, z, grad_log_sum_exp, grad_expected, grad_entropy, grad_mean,
                              expected, statistics);
  // The kernels of fp32 read no wider matrix.
  if (grad_expected.has_value() && grad_expected->scalar_type() == ScalarType::Double) {
    problem.fp64 = true;
  }
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
  const cudaStream_t stream = context.stream();
  const int64_t num_rows = problem.num_rows, num_codes = problem.num_codes;
  const Frame frame(problem, z, context);
  const Tensor flat_statistics = torch::stable::contiguous(statistics);

  const Tensor code_term = new_doubles(z, num_codes);
  Rows of_mean;
  if (grad_mean.has_value()) of_mean = vector_rows(*grad_mean);
  launched(cuda::soft_code_gradients(problem, of_mean, doubles(code_term), stream));

  Tensor holders[3], offset_memory, value_centre;
  const auto column = [&](const OptionalTensor& t, Tensor* holder) {
    if (!t.has_value()) return Rows();
    *holder = torch::stable::contiguous(*t);
    return contiguous_rows(holder->data_ptr(), dtype_of(holder->scalar_type()), num_rows, 1);
  };
  const Tensor of_latents = new_doubles(z, 6 * num_rows);
  cuda::SoftLatentArgs terms;
  terms.problem = problem;
  terms.frame = frame.frame;
  terms.statistics = doubles(flat_statistics);
  terms.code_terms = doubles(code_term);
  terms.grad_log_sum_exp = column(grad_log_sum_exp, &holders[0]);
  terms.grad_entropy = column(grad_entropy, &holders[1]);
  if (grad_expected.has_value()) {
    terms.grad_expected = rows_of(*grad_expected, &holders[2]);
    offset_memory = new_doubles(z, cuda::soft_offset_doubles(num_codes, problem.value_dim));
    value_centre = torch::stable::new_empty(z, {problem.value_dim}, ScalarType::Float);
    auto* centre = static_cast<float*>(value_centre.data_ptr());
    launched(cuda::soft_offset(problem.values, num_codes, problem.value_dim, doubles(offset_memory),
                               centre, stream));
    terms.value_centre = centre;
  }
  terms.add = doubles(of_latents);
  terms.excess = terms.add + num_rows;
  terms.entropy = terms.excess + num_rows;
  terms.anchor = terms.entropy + num_rows;
  terms.term = terms.anchor + num_rows;
  launched(cuda::soft_latents(terms, stream));

  cuda::SoftGradientArgs args;
  args.problem = problem;
  args.frame = frame.frame;
  args.seed = seed_of(seed);
  cuda::SoftSide latents, codes;
  latents.rows = problem.z;
  latents.weights = terms.grad_expected;
  latents.count = num_rows;
  latents.centred = problem.squared;
  latents.add = terms.add;
  latents.excess = terms.excess;
  latents.anchor = terms.anchor;
  latents.term = terms.term;
  codes.rows = problem.codebook;
  if (grad_expected.has_value()) codes.weights = problem.values;
  codes.weights_centre = terms.value_centre;
  codes.count = num_codes;
  codes.centred = true;
  codes.term = doubles(code_term);
  args.own = latents;
  args.other = codes;
  args.own_latents = true;
  double* left = nullptr;
  // The gradient of the values is of probabilities alone.
  const bool of_logits = need_z || grad_codebook.numel() > 0 || grad_bias.numel() > 0;
  if (of_logits && (grad_expected.has_value() || grad_mean.has_value())) {
    left = terms.term + num_rows;
    args.grad_add = contiguous_rows(left, DType::kFloat64, num_rows, 1);
    launched(cuda::soft_gradient(args, stream));
    args.grad_add = Rows();
  }
  launched(cuda::soft_balance(terms, left, stream));
  args.own.entropy = latents.entropy = terms.entropy;
  if (need_z) {
    args.grad_rows = grad_z_rows->rows(false, 0);
    launched(cuda::soft_gradient(args, stream));
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
  launched(cuda::soft_gradient(args, stream));
  return {grad_z, grad_codebook, grad_values, grad_bias};
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CUDA, m) {
  m.impl("soft_assign", TORCH_BOX(&vqgan_fast::ops::soft_assign_cuda));
  m.impl("soft_assign_backward", TORCH_BOX(&vqgan_fast::ops::soft_assign_backward_cuda));
}
