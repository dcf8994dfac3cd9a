#include "kernels/cpu/soft_assign_frame.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/row_block.h"

namespace vqgan_fast {
namespace {

constexpr int64_t kRowsAtOnce = 64;

// use(row, elements) for every row.
template <class Use>
void for_rows(const Rows& rows, int64_t begin, int64_t end, int64_t dim, const Use& use) {
  const DefaultFloatMode float_mode;
  std::vector<double> block(static_cast<size_t>(kRowsAtOnce * dim));
  for (int64_t first = begin; first < end; first += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, end - first);
    load_rows(rows, first, count, dim, block.data());
    for (int64_t r = 0; r < count; ++r) use(first + r, block.data() + r * dim);
  }
}

double squared_distance(const double* x, const double* centre, int64_t dim) {
  double sum = 0.0;
  for (int64_t d = 0; d < dim; ++d) {
    const double difference = centre == nullptr ? x[d] : x[d] - centre[d];
    sum += difference * difference;
  }
  return sum;
}

// ||x - centre||^2 of every row.
std::vector<double> squared_distances(const Rows& rows, int64_t count, int64_t dim,
                                      const double* centre, const Parallel& parallel) {
  std::vector<double> found(static_cast<size_t>(count));
  parallel.run(0, count, 1024, [&](int64_t begin, int64_t end) {
    for_rows(rows, begin, end, dim,
             [&](int64_t row, const double* x) { found[row] = squared_distance(x, centre, dim); });
  });
  return found;
}

// The largest finite magnitude.
double largest_of(const std::vector<double>& values) {
  double largest = 0.0;
  for (const double x : values) {
    if (std::isfinite(x)) largest = std::max(largest, std::fabs(x));
  }
  return largest;
}

}  // namespace

std::vector<double> offset_of_rows(const Rows& rows, int64_t count, int64_t dim,
                                   const Parallel& parallel) {
  // Partial sums of fixed blocks, so that the threads do not matter.
  constexpr int64_t kBlock = 1024;
  const int64_t num_blocks = (count + kBlock - 1) / kBlock;
  std::vector<double> sums(static_cast<size_t>(num_blocks * (dim + 1)));
  parallel.run(0, num_blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      double* sum = sums.data() + b * (dim + 1);
      for_rows(rows, b * kBlock, std::min(count, (b + 1) * kBlock), dim,
               [&](int64_t, const double* x) {
                 for (int64_t d = 0; d < dim; ++d) sum[d] += x[d];
                 sum[dim] += squared_distance(x, nullptr, dim);
               });
    }
  });
  std::vector<double> mean(static_cast<size_t>(dim + 1));
  for (int64_t b = 0; b < num_blocks; ++b) {
    for (int64_t d = 0; d <= dim; ++d) mean[d] += sums[b * (dim + 1) + d];
  }
  for (double& x : mean) x = static_cast<float>(x / static_cast<double>(count));
  const double norm2 = squared_distance(mean.data(), nullptr, dim);
  // Not of numbers that are not finite.
  if (!(norm2 > kLeastOffset * mean[dim]) || !std::isfinite(norm2)) return {};
  mean.pop_back();
  return mean;
}

SoftFrame::SoftFrame(const SoftAssignProblem& problem, const Parallel& parallel)
    : scale((problem.squared ? 2.0 : 1.0) / problem.temperature) {
  const int64_t num_codes = problem.num_codes, dim = problem.dim;
  if (!problem.fp64) centre = offset_of_rows(problem.codebook, num_codes, dim, parallel);
  const auto terms = [&](std::vector<double> norms2) {
    std::vector<double> bias(static_cast<size_t>(num_codes));
    if (problem.bias.data != nullptr) load_rows(problem.bias, 0, num_codes, 1, bias.data());
    for (int64_t k = 0; k < num_codes; ++k) {
      norms2[k] = (bias[k] - (problem.squared ? norms2[k] : 0.0)) / problem.temperature;
    }
    return norms2;
  };
  const auto norms2 = squared_distances(problem.codebook, num_codes, dim, sum_centre(), parallel);
  code_terms = terms(norms2);
  if (problem.fp64) return;
  const auto latent_norms2 = squared_distances(problem.z, problem.num_rows, dim,
                                               problem.squared ? sum_centre() : nullptr, parallel);
  const double product = scale * std::sqrt(largest_of(norms2) * largest_of(latent_norms2));
  wide = std::max(product, largest_of(code_terms)) > kLargestFp32Logit;
  if (wide && !centre.empty()) {
    code_terms = terms(squared_distances(problem.codebook, num_codes, dim, nullptr, parallel));
  }
}

double SoftFrame::row_constant(const SoftAssignProblem& problem, const double* z) const {
  const double* from = score_centre();
  if (problem.squared) return -squared_distance(z, from, problem.dim) / problem.temperature;
  double product = 0.0;
  for (int64_t d = 0; from != nullptr && d < problem.dim; ++d) product += z[d] * from[d];
  return product / problem.temperature;
}

std::vector<double> SoftFrame::latent_terms(const SoftAssignProblem& problem,
                                            const double* statistics, bool add_entropy,
                                            const Parallel& parallel) const {
  std::vector<double> terms(static_cast<size_t>(problem.num_rows));
  parallel.run(0, problem.num_rows, 1024, [&](int64_t begin, int64_t end) {
    for_rows(problem.z, begin, end, problem.dim, [&](int64_t n, const double* z) {
      const double* of_latent = statistics + kSoftStatistics * n;
      const double entropy = add_entropy ? of_latent[1] : 0.0;
      terms[n] = row_constant(problem, z) - of_latent[0] + entropy;
    });
  });
  return terms;
}

}  // namespace vqgan_fast
