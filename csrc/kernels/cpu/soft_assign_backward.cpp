// The gradients of soft_assign: the logits are computed anew, once with latents as rows, for
// grad_z, and once with codes as rows, for the rest.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cpu/soft_assign.h"
#include "kernels/cpu/soft_assign_blocks.h"
#include "kernels/cpu/soft_assign_frame.h"
#include "kernels/cpu/soft_assign_scores.h"

namespace vqgan_fast {
namespace {

// Latents or codes, and what of the formula belongs to each of them. With u = log p + entropy,
// which is `add` of both beside the product, and p = exp(u - excess), the gradient by a logit is
//
//   p (term + grad_expected.value - entropy u)
//
// A latent's own entropy is in u because the sum over its codes of p u is then 0, and no rounding
// of it weighs on all codes alike.
struct Side {
  Rows rows;
  Rows weights;  // grad_expected of latents, values of codes; no data without grad_expected
  int64_t count;
  const double* score_centre;    // from which `rows` are measured in products, or null
  const double* sum_centre;      // and in sums
  const double* weights_centre;  // of `weights`
  std::vector<double> add;       // to u
  std::vector<double> excess;    // these may be empty, for 0
  std::vector<double> term;
  std::vector<double> entropy;
  Rows grad_rows;     // by `rows`
  Rows grad_weights;  // the sum of probabilities times the other side's weights
  Rows grad_add;      // the sum of gradients of logits
};

double value_or_zero(const std::vector<double>& values, int64_t i) {
  return values.empty() ? 0.0 : values[i];
}

template <class T>
void gradient_pass(const SoftAssignProblem& problem, const SoftFrame& frame, const Side& own,
                   const Side& other, bool latents_are_rows, const Parallel& parallel) {
  const SoftAssignLoops<T>& loops = soft_assign_loops<T>(simd_level());
  const int panel = loops.panel;
  const int64_t dim = problem.dim, weight_dim = problem.value_dim;
  const bool weighted = own.weights.data != nullptr;
  const bool sum_weights = own.grad_weights.data != nullptr;
  const bool sum_rows = own.grad_rows.data != nullptr;
  const int64_t row_columns = round_up(dim, panel), weight_columns = round_up(weight_dim, panel);
  const auto packed = [&](const Rows& rows, int64_t columns, const double* centre, PackFor what) {
    return pack_columns<T>(rows, other.count, columns, centre, what, panel, parallel);
  };
  const ScoreColumns<T> columns_of_other(other.rows, other.count, dim, other.score_centre,
                                         other.add.data(), -HUGE_VAL, frame.wide, panel, parallel);
  AlignedArray<T> rows, weights, weight_rows;
  if (sum_rows) rows = packed(other.rows, dim, other.sum_centre, PackFor::kSums);
  if (weighted) {
    weights = packed(other.weights, weight_dim, other.weights_centre, PackFor::kLogits);
  }
  if (sum_weights) weight_rows = packed(other.weights, weight_dim, nullptr, PackFor::kSums);
  const auto padded_column = [&](const std::vector<double>& values) {
    return padded_columns<T>(values.empty() ? nullptr : values.data(), other.count, 0.0);
  };
  const auto excess = padded_column(other.excess);
  const SplitColumns<T> term(other.term.empty() ? nullptr : other.term.data(), other.count);
  const auto entropy = padded_column(other.entropy);

  const SoftPass pass(own.count, other.count, dim, parallel);
  pass.run(parallel, [&] {
    constexpr int64_t kTile = kSoftBlockRows * kSoftBlockColumns;
    return [&, x = OwnRows<T>(dim), w = OwnRows<T>(weighted ? weight_dim : 0),
            noise = TileNoise<T>(problem, loops),
            scores = TileScores<T>(frame, loops, columns_of_other),
            values = allocate_array<T>(weighted ? kTile : 0),
            grad_rows = allocate_array<T>(kSoftBlockRows * row_columns),
            grad_weights = allocate_array<T>(sum_weights ? kSoftBlockRows * weight_columns : 0),
            line = std::vector<double>(std::max(dim, weight_dim))](int64_t begin,
                                                                   int64_t count) mutable {
      const int64_t padded = round_up(count, kSoftRowStep);
      x.load(own.rows, begin, count, own.score_centre);
      if (weighted) w.load(own.weights, begin, count, own.weights_centre);
      std::fill(grad_rows.get(), grad_rows.get() + padded * row_columns, T(0));
      if (sum_weights) {
        std::fill(grad_weights.get(), grad_weights.get() + padded * weight_columns, T(0));
      }
      double sums[kSoftBlockRows] = {};
      for (int64_t j = 0; j < other.count; j += kSoftBlockColumns) {
        const int64_t size = std::min(kSoftBlockColumns, other.count - j);
        const int64_t columns = round_up(size, panel);
        scores.multiply(x, padded, j, columns);
        if (weighted) {
          loops.multiply(w.data(), weight_dim, padded, weights.get() + j * weight_dim, weight_dim,
                         columns / panel, values.get());
        }
        latents_are_rows ? noise.of_latents(begin, count, j, columns)
                         : noise.of_codes(begin, count, j, columns);
        for (int64_t r = 0; r < count; ++r) {
          const double add = own.add[begin + r];
          if (frame.wide) {
            scores.logits(r, j, columns, noise.row(r));
            scores.narrow(r, columns, add);
          }
          SoftGradientRow<T> row;
          row.scale = static_cast<T>(frame.scale);
          row.add = static_cast<T>(add);
          row.excess = static_cast<T>(value_or_zero(own.excess, begin + r));
          const double own_term = value_or_zero(own.term, begin + r);
          row.term = static_cast<T>(own_term);
          row.term_low = low_part<T>(own_term);
          row.entropy = static_cast<T>(value_or_zero(own.entropy, begin + r));
          row.column_add = frame.wide ? nullptr : columns_of_other.add.data() + j;
          row.column_excess = excess.data() + j;
          row.column_term = term.high.data() + j;
          row.column_term_low = term.low.data() + j;
          row.column_entropy = entropy.data() + j;
          row.noise = noise.row(r);
          sums[r] += loops.gradients(row, columns, scores.row(r),
                                     weighted ? values.get() + r * kSoftBlockColumns : nullptr);
        }
        if (sum_rows) {
          loops.add_product(scores.data(), kSoftBlockColumns, padded, rows.get() + j * row_columns,
                            size, row_columns / panel, grad_rows.get(), row_columns);
        }
        if (sum_weights) {
          loops.add_product(values.get(), kSoftBlockColumns, padded,
                            weight_rows.get() + j * weight_columns, size, weight_columns / panel,
                            grad_weights.get(), weight_columns);
        }
      }
      for (int64_t r = 0; r < count; ++r) {
        if (sum_rows) {
          // Both sides are measured from one centre if `squared`; else the sum lacks the other's.
          for (int64_t d = 0; d < dim; ++d) {
            const double centre = other.sum_centre == nullptr ? 0.0 : other.sum_centre[d];
            const double rest = sums[r] * (centre - (problem.squared ? x(r, d) : 0.0));
            line[d] = frame.scale * (static_cast<double>(grad_rows[r * row_columns + d]) + rest);
          }
          store_rows(own.grad_rows, begin + r, 1, dim, line.data());
        }
        if (sum_weights) {
          for (int64_t d = 0; d < weight_dim; ++d) line[d] = grad_weights[r * weight_columns + d];
          store_rows(own.grad_weights, begin + r, 1, weight_dim, line.data());
        }
        if (own.grad_add.data != nullptr) {
          const double gradient = sums[r] / problem.temperature;
          store_rows(own.grad_add, begin + r, 1, 1, &gradient);
        }
      }
    };
  });
}

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

// What of the gradient by a logit depends on its latent alone.
template <class T>
std::vector<double> row_terms_of(const SoftAssignProblem& problem,
                                 const SoftAssignGradients& gradients,
                                 const std::vector<double>& code_terms,
                                 const std::vector<double>& value_centre, const Side& latents,
                                 bool wide, const Parallel& parallel) {
  std::vector<double> terms(static_cast<size_t>(problem.num_rows));
  if (!code_terms.empty()) {
    std::vector<double> means(terms.size()), unused(2 * terms.size());
    SoftAssignResults results;
    results.statistics = unused.data();
    results.terms = code_terms.data();
    results.mean_terms = means.data();
    soft_assign(problem, results, parallel);
    for (size_t n = 0; n < terms.size(); ++n) terms[n] -= means[n];
  }
  const int64_t columns = problem.value_dim;
  // Of values far from 0 and near each other `expected` has lost what they differ by, so it is
  // computed anew, measured from their centre.
  Rows expected = gradients.expected;
  std::vector<double> centred;
  if (!value_centre.empty()) {
    centred.resize(terms.size() * static_cast<size_t>(columns));
    std::vector<double> unused(2 * terms.size());
    expected = contiguous_rows(centred.data(), DType::kFloat64, problem.num_rows, columns);
    SoftAssignResults results;
    results.statistics = unused.data();
    results.expected = expected;
    results.value_centre = value_centre.data();
    soft_assign(problem, results, parallel);
  }
  parallel.run(0, problem.num_rows, 256, [&](int64_t begin, int64_t end) {
    std::vector<double> gradient(static_cast<size_t>(columns)), output(gradient.size());
    for (int64_t n = begin; n < end; ++n) {
      if (gradients.grad_log_sum_exp != nullptr) terms[n] += gradients.grad_log_sum_exp[n];
      if (gradients.grad_entropy != nullptr && !wide) {
        // What u loses by the rounding of its largest part.
        const double lost = latents.add[n] - static_cast<double>(static_cast<T>(latents.add[n]));
        terms[n] -= gradients.grad_entropy[n] * lost;
      }
      if (gradients.grad_expected.data == nullptr) continue;
      load_rows(gradients.grad_expected, n, 1, columns, gradient.data());
      load_rows(expected, n, 1, columns, output.data());
      for (int64_t d = 0; d < columns; ++d) {
        terms[n] -= gradient[d] * output[d];
      }
    }
  });
  return terms;
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
    latents.excess.push_back(gradients.statistics[2 * n + 1]);
  }
  latents.term =
      row_terms_of<T>(problem, gradients, codes.term, value_centre, latents, frame.wide, parallel);
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
