// soft_assign and its gradients at the AVX-512 level, in fp32, against the same in fp64.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "checks.h"
#include "kernels/cpu/simd_level.h"
#include "kernels/cpu/soft_assign.h"

namespace vqgan_fast {
namespace {

std::mt19937_64 generator(20261129);

std::vector<double> normals(int64_t count, double scale) {
  std::normal_distribution<double> distribution;
  std::vector<double> numbers(count);
  for (double& x : numbers) x = static_cast<float>(scale * distribution(generator));
  return numbers;
}

struct Options {
  int64_t rows, codes, dim, value_dim;
  bool squared, noisy, with_bias;
  double temperature;
  double scale;  // of the latents; far from 1 the logits are made in fp64
};

struct Inputs {
  std::vector<double> z, codebook, values, bias;
  // the gradients of the results
  std::vector<double> of_log_sum_exp, of_expected, of_entropy, of_mean;
};

struct Results {
  std::vector<double> statistics, expected, mean, grad_z, grad_codebook, grad_values, grad_bias;
  std::vector<int64_t> indices;
};

Rows rows_of(const std::vector<double>& numbers, int64_t columns) {
  const auto count = static_cast<int64_t>(numbers.size()) / columns;
  return contiguous_rows(numbers.data(), DType::kFloat64, count, columns);
}

Results run(const Options& o, const Inputs& inputs, bool fp64) {
  SoftAssignProblem problem;
  problem.z = rows_of(inputs.z, o.dim);
  problem.codebook = rows_of(inputs.codebook, o.dim);
  problem.values = rows_of(inputs.values, o.value_dim);
  if (o.with_bias) problem.bias = rows_of(inputs.bias, 1);
  problem.num_rows = o.rows;
  problem.num_codes = o.codes;
  problem.dim = o.dim;
  problem.value_dim = o.value_dim;
  problem.temperature = o.temperature;
  problem.squared = o.squared;
  problem.noisy = o.noisy;
  problem.seed = 0x123456789abcdefull;
  problem.fp64 = fp64;

  Results r;
  r.statistics.resize(kSoftStatistics * o.rows);
  r.expected.resize(o.rows * o.value_dim);
  r.indices.resize(o.rows);
  r.mean.resize(o.codes);
  SoftAssignResults results;
  results.statistics = r.statistics.data();
  results.expected = rows_of(r.expected, o.value_dim);
  results.indices = r.indices.data();
  soft_assign(problem, results, Parallel());
  soft_assign_mean(problem, r.statistics.data(), rows_of(r.mean, 1), Parallel());

  r.grad_z.resize(inputs.z.size());
  r.grad_codebook.resize(inputs.codebook.size());
  r.grad_values.resize(inputs.values.size());
  r.grad_bias.resize(o.codes);
  SoftAssignGradients gradients;
  gradients.statistics = r.statistics.data();
  gradients.grad_log_sum_exp = inputs.of_log_sum_exp.data();
  gradients.grad_entropy = inputs.of_entropy.data();
  gradients.grad_mean_probability = inputs.of_mean.data();
  gradients.grad_expected = rows_of(inputs.of_expected, o.value_dim);
  gradients.expected = results.expected;
  gradients.grad_z = rows_of(r.grad_z, o.dim);
  gradients.grad_codebook = rows_of(r.grad_codebook, o.dim);
  gradients.grad_values = rows_of(r.grad_values, o.value_dim);
  gradients.grad_bias = rows_of(r.grad_bias, 1);
  soft_assign_backward(problem, gradients, Parallel());
  return r;
}

int check(const Options& o) {
  const double size = std::pow(static_cast<double>(o.dim), -0.25);  // logits of size 1
  Inputs inputs;
  inputs.z = normals(o.rows * o.dim, size * o.scale);
  inputs.codebook = normals(o.codes * o.dim, size);
  inputs.values = normals(o.codes * o.value_dim, 1.0);
  inputs.bias = normals(o.codes, 1.0);
  inputs.of_log_sum_exp = normals(o.rows, 1.0);
  inputs.of_expected = normals(o.rows * o.value_dim, 1.0);
  inputs.of_entropy = normals(o.rows, 1.0);
  inputs.of_mean = normals(o.codes, 1.0);
  const Results found = run(o, inputs, false), exact = run(o, inputs, true);

  int failures = 0;
  const auto near = [&](const char* name, const auto& a, const auto& b, double tolerance) {
    double largest = 1.0, error = 0.0;
    for (size_t i = 0; i < b.size(); ++i) {
      largest = std::max(largest, std::fabs(static_cast<double>(b[i])));
      const double difference = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
      error = difference <= error ? error : difference;  // a NaN is taken and stays
    }
    if (error <= tolerance * largest) return;
    std::printf(
        "soft_assign, %s: off by %g, largest %g; N = %lld, K = %lld, D = %lld, %s%s, "
        "temperature %g, scale %g\n",
        name, error, largest, static_cast<long long>(o.rows), static_cast<long long>(o.codes),
        static_cast<long long>(o.dim), o.squared ? "l2" : "dot", o.noisy ? ", noisy" : "",
        o.temperature, o.scale);
    ++failures;
  };
  near("statistics", found.statistics, exact.statistics, 1e-5);
  near("expected", found.expected, exact.expected, 1e-5);
  near("mean", found.mean, exact.mean, 1e-5);
  near("indices", found.indices, exact.indices, 0.0);
  near("grad z", found.grad_z, exact.grad_z, 1e-4);
  near("grad codebook", found.grad_codebook, exact.grad_codebook, 1e-4);
  near("grad values", found.grad_values, exact.grad_values, 1e-4);
  near("grad bias", found.grad_bias, exact.grad_bias, 1e-4);
  return failures;
}

}  // namespace
}  // namespace vqgan_fast

int check_soft_assign() {
  using namespace vqgan_fast;
  setenv("VQGAN_FAST_ISA", simd_level_name(SimdLevel::kAvx512), 1);
  int failures = 0;
  for (const bool squared : {false, true}) {
    for (const bool noisy : {false, true}) {
      for (const double scale : {1.0, 200.0}) {
        failures += check({1, 1, 1, 1, squared, noisy, true, 1.0, scale});
        failures += check({13, 33, 7, 5, squared, noisy, false, 0.5, scale});
        failures += check({50, 300, 16, 33, squared, noisy, true, 1.0, scale});
      }
    }
  }
  return failures;
}
