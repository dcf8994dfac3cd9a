// What both devices' soft_assign asks of its arguments.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>

#include "kernels/cpu/soft_assign.h"
#include "ops/checks.h"
#include "ops/tensor_rows.h"

namespace vqgan_fast::ops {

using OptionalTensor = std::optional<Tensor>;

// A vector (count,) as rows of one element.
inline Rows vector_rows(const Tensor& t) {
  Rows rows;
  rows.data = t.data_ptr();
  rows.dtype = dtype_of(t.scalar_type());
  rows.inner_rows = t.numel() > 0 ? t.numel() : 1;
  rows.inner_stride = t.dim() == 1 ? t.stride(0) : 1;
  return rows;
}

inline void check_vector(const Tensor& t, const char* name, const char* size_name, int64_t size,
                         const Tensor& z) {
  check_float(t, name);
  check_same_device(t, name, z);
  VQGAN_FAST_CHECK(t.dim() == 1 && t.size(0) == size, name, " must be (", size_name, ",) with ",
                   size_name, " = ", size, ", got ", shape_text(t));
}

// One number for each row of z; `columns` of them if that is not 0.
inline void check_per_row(const Tensor& t, const char* name, int64_t columns, const Tensor& z) {
  check_float(t, name);
  check_same_device(t, name, z);
  bool same = t.dim() == z.dim() - (columns > 0 ? 0 : 1);
  for (int64_t i = 0; same && i + 1 < z.dim(); ++i) same = t.size(i) == z.size(i);
  if (same && columns > 0) same = t.size(t.dim() - 1) == columns;
  VQGAN_FAST_CHECK(same, name, " must have the leading sizes of z ", shape_text(z),
                   columns > 0 ? " and last " : " alone",
                   columns > 0 ? std::to_string(columns) : "", ", got ", shape_text(t));
}

// The arguments as the kernels take them. `holders` own copies where strides need them; seed is
// left to the device.
struct SoftAssignArguments {
  SoftAssignProblem problem;
  ScalarType type;  // of the results
  Tensor z_holder, values_holder;
};

inline SoftAssignArguments check_soft_assign(const Tensor& z, const Tensor& codebook,
                                             const OptionalTensor& values,
                                             const OptionalTensor& bias, const OptionalTensor& seed,
                                             double temperature, bool squared) {
  VQGAN_FAST_CHECK(!codebook.defined() || codebook.dim() == 2, "codebook must be (K, D), got ",
                   shape_text(codebook));
  const SearchSizes sizes = check_search(z, codebook);
  VQGAN_FAST_CHECK(temperature > 0 && std::isfinite(temperature),
                   "temperature must be positive and finite, got ", temperature);
  SoftAssignArguments arguments;
  SoftAssignProblem& problem = arguments.problem;
  arguments.type = accumulation_type(z, codebook);
  problem.z = rows_of(z, &arguments.z_holder);
  problem.codebook = head_rows(codebook, 0);
  problem.num_rows = sizes.num_rows;
  problem.num_codes = sizes.num_codes;
  problem.dim = sizes.dim;
  problem.temperature = temperature;
  problem.squared = squared;
  if (values.has_value()) {
    check_float(*values, "values");
    check_same_device(*values, "values", z);
    VQGAN_FAST_CHECK(
        values->dim() == 2 && values->size(0) == sizes.num_codes && values->size(1) > 0,
        "values must be (K, C) with K = ", sizes.num_codes, " and C >= 1, got ",
        shape_text(*values));
    problem.values = head_rows(*values, 0);
    problem.value_dim = values->size(1);
    if (values->scalar_type() == ScalarType::Double) arguments.type = ScalarType::Double;
  }
  if (bias.has_value()) {
    check_vector(*bias, "bias", "K", sizes.num_codes, z);
    problem.bias = vector_rows(*bias);
    if (bias->scalar_type() == ScalarType::Double) arguments.type = ScalarType::Double;
  }
  if (seed.has_value()) {
    VQGAN_FAST_CHECK(seed->scalar_type() == ScalarType::Long && seed->numel() == 1,
                     "seed must be one int64, got ", seed->scalar_type(), " of shape ",
                     shape_text(*seed));
    check_same_device(*seed, "seed", z);
    problem.noisy = true;
  }
  problem.fp64 = arguments.type == ScalarType::Double;
  return arguments;
}

// The gradients of the results, with those results that they need.
inline void check_soft_assign_gradients(const SoftAssignProblem& problem, const Tensor& z,
                                        const OptionalTensor& grad_log_sum_exp,
                                        const OptionalTensor& grad_expected,
                                        const OptionalTensor& grad_entropy,
                                        const OptionalTensor& grad_mean, const Tensor& expected,
                                        const Tensor& statistics) {
  check_per_row(statistics, "statistics", kSoftStatistics, z);
  VQGAN_FAST_CHECK(statistics.scalar_type() == ScalarType::Double,
                   "statistics must be float64, got ", statistics.scalar_type());
  if (grad_log_sum_exp.has_value()) {
    check_per_row(*grad_log_sum_exp, "grad_log_sum_exp", 0, z);
  }
  if (grad_expected.has_value()) {
    VQGAN_FAST_CHECK(problem.value_dim > 0, "values must be given with grad_expected, got None");
    check_per_row(*grad_expected, "grad_expected", problem.value_dim, z);
    check_per_row(expected, "expected", problem.value_dim, z);
  }
  if (grad_entropy.has_value()) {
    check_per_row(*grad_entropy, "grad_entropy", 0, z);
  }
  if (grad_mean.has_value()) {
    check_vector(*grad_mean, "grad_mean_probability", "K", problem.num_codes, z);
  }
}

}  // namespace vqgan_fast::ops
