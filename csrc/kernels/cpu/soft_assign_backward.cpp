// The gradients of soft_assign: a pass with latents as rows for grad_z, and one with codes as rows
// for the rest.
#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/cpu/soft_assign.h"
#include "kernels/cpu/soft_assign_blocks.h"
#include "kernels/cpu/soft_assign_frame.h"
#include "kernels/cpu/soft_assign_gradient_pass.h"
#include "kernels/cpu/soft_assign_loops.h"

namespace vqgan_fast {
namespace {

// The gradients of the mean probabilities as they count for one latent, less their mean, which
// changes nothing and would only cost digits.
std::vector<double> code_terms_of(const SoftAssignProblem& problem, const double* grad_mean) {
  if (grad_mean == nullptr) return {};
  std::vector<double> terms(grad_mean, grad_mean + problem.num_codes);
  double mean = 0.0;
  for (const double x : terms) mean += x / static_cast<double>(problem.num_codes);
  for (double& x : terms) x = (x - mean) / static_cast<double>(problem.num_rows);
  return terms;
}

// A latent is sure of its code below this entropy, in nats.
constexpr double kSure = 1.0;

// Of each latent the product of its gradient and the value of the code with the largest logit, as
// the loops make it.
template <class T>
std::vector<double> anchors_of(const SoftAssignProblem& problem,
                               const SoftAssignGradients& gradients, const double* value_centre,
                               const Parallel& parallel) {
  const SoftAssignLoops<T>& loops = soft_assign_loops<T>(simd_level());
  const int64_t dim = problem.value_dim, panel = loops.panel;
  std::vector<double> anchors(static_cast<size_t>(problem.num_rows));
  const int64_t num_blocks = (problem.num_rows + kSoftBlockRows - 1) / kSoftBlockRows;
  parallel.run(0, num_blocks, 4, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    OwnRows<T> gradient(dim);
    const auto values = allocate_array<double>(kSoftBlockRows * dim);
    const auto tile = allocate_array<T>(kSoftBlockRows * kSoftBlockColumns);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * kSoftBlockRows;
      const int64_t count = std::min(kSoftBlockRows, problem.num_rows - first);
      gradient.load(gradients.grad_expected, first, count, nullptr);
      for (int64_t r = 0; r < count; ++r) {
        const auto code =
            static_cast<int64_t>(gradients.statistics[kSoftStatistics * (first + r) + 2]);
        load_rows(problem.values, code, 1, dim, values.get() + r * dim);
      }
      const auto packed =
          pack_columns<T>(contiguous_rows(values.get(), DType::kFloat64, count, dim), count, dim,
                          value_centre, PackFor::kLogits, loops.panel, Parallel());
      loops.multiply(gradient.data(), dim, round_up(count, kSoftRowStep), packed.get(), dim,
                     round_up(count, panel) / panel, tile.get());
      for (int64_t r = 0; r < count; ++r) anchors[first + r] = tile[r * kSoftBlockColumns + r];
    }
  });
  return anchors;
}

// What of the gradient by a logit depends on its latent alone: it makes the sum of a latent's
// gradients what it must be. Where a latent is sure of its code, or values lie far from 0 and near
// each other, that is a small difference of large numbers, and `expected`, which is rounded, does
// not tell it: then everything is measured from what the code with the largest logit has, and
// summed. Sets latents->term and latents->anchor.
template <class T>
void balance(const SoftAssignProblem& problem, const SoftFrame& frame,
             const SoftAssignGradients& gradients, const Side& codes, Side* latents,
             const Parallel& parallel) {
  const int64_t num_rows = problem.num_rows;
  const double* statistics = gradients.statistics;
  const bool weighted = gradients.grad_expected.data != nullptr;
  bool summed = !codes.term.empty() || codes.weights_centre != nullptr;
  for (int64_t n = 0; weighted && n < num_rows && !summed; ++n) {
    summed = statistics[kSoftStatistics * n + 1] < kSure;
  }
  std::vector<double> terms(static_cast<size_t>(num_rows));
  if (summed) {
    if (weighted) {
      latents->anchor = anchors_of<T>(problem, gradients, codes.weights_centre, parallel);
    }
    for (int64_t n = 0; !codes.term.empty() && n < num_rows; ++n) {
      terms[n] = -codes.term[static_cast<size_t>(statistics[kSoftStatistics * n + 2])];
    }
    std::vector<double> means(terms.size());
    Side own = *latents;
    own.entropy.clear();
    own.term = terms;
    own.mean = means.data();
    gradient_pass<T>(problem, frame, own, codes, true, parallel);
    for (int64_t n = 0; n < num_rows; ++n) terms[n] -= means[n];
  }
  const int64_t columns = problem.value_dim;
  parallel.run(0, num_rows, 256, [&](int64_t begin, int64_t end) {
    std::vector<double> gradient(static_cast<size_t>(columns)), output(gradient.size());
    for (int64_t n = begin; n < end; ++n) {
      if (gradients.grad_log_sum_exp != nullptr) terms[n] += gradients.grad_log_sum_exp[n];
      if (gradients.grad_entropy != nullptr && !frame.wide) {
        // What u loses by the rounding of its largest part.
        const double lost = latents->add[n] - static_cast<double>(static_cast<T>(latents->add[n]));
        terms[n] -= gradients.grad_entropy[n] * lost;
      }
      if (!weighted || summed) continue;
      load_rows(gradients.grad_expected, n, 1, columns, gradient.data());
      load_rows(gradients.expected, n, 1, columns, output.data());
      for (int64_t d = 0; d < columns; ++d) terms[n] -= gradient[d] * output[d];
    }
  });
  latents->term = std::move(terms);
}

template <class T>
void backward(const SoftAssignProblem& problem, const SoftAssignGradients& gradients,
              const Parallel& parallel) {
  const SoftFrame frame(problem, parallel);
  const bool weighted = gradients.grad_expected.data != nullptr;
  std::vector<double> value_centre;
  if (weighted) {
    value_centre = offset_of_rows(problem.values, problem.num_codes, problem.value_dim, parallel);
  }
  Side latents{}, codes{};
  codes.rows = problem.codebook;
  if (weighted) codes.weights = problem.values;
  codes.count = problem.num_codes;
  codes.score_centre = frame.score_centre();
  codes.sum_centre = frame.sum_centre();
  codes.weights_centre = or_null(value_centre);
  codes.add = frame.code_terms;
  codes.term = code_terms_of(problem, gradients.grad_mean_probability);
  codes.grad_rows = gradients.grad_codebook;
  codes.grad_weights = gradients.grad_values;
  codes.grad_add = gradients.grad_bias;

  const bool entropy = gradients.grad_entropy != nullptr;
  latents.rows = problem.z;
  latents.weights = gradients.grad_expected;
  latents.count = problem.num_rows;
  if (problem.squared) {
    latents.score_centre = frame.score_centre();
    latents.sum_centre = frame.sum_centre();
  }
  latents.add = frame.latent_terms(problem, gradients.statistics, entropy, parallel);
  for (int64_t n = 0; entropy && n < problem.num_rows; ++n) {
    latents.entropy.push_back(gradients.grad_entropy[n]);
    latents.excess.push_back(gradients.statistics[kSoftStatistics * n + 1]);
  }
  // The gradient of the values is of probabilities alone.
  if (gradients.grad_z.data != nullptr || codes.grad_rows.data != nullptr ||
      codes.grad_add.data != nullptr) {
    balance<T>(problem, frame, gradients, codes, &latents, parallel);
  }
  latents.grad_rows = gradients.grad_z;

  if (latents.grad_rows.data != nullptr) {
    gradient_pass<T>(problem, frame, latents, codes, true, parallel);
  }
  if (codes.grad_rows.data != nullptr || codes.grad_weights.data != nullptr ||
      codes.grad_add.data != nullptr) {
    gradient_pass<T>(problem, frame, codes, latents, false, parallel);
  }
}

}  // namespace

void soft_assign_backward(const SoftAssignProblem& problem, const SoftAssignGradients& gradients,
                          const Parallel& parallel) {
  problem.fp64 ? backward<double>(problem, gradients, parallel)
               : backward<float>(problem, gradients, parallel);
}

}  // namespace vqgan_fast
