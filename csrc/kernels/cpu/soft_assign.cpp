#include "kernels/cpu/soft_assign.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cpu/soft_assign_blocks.h"
#include "kernels/cpu/soft_assign_frame.h"
#include "kernels/cpu/soft_assign_scores.h"

namespace vqgan_fast {

namespace {

// The softmax of one row over the codes that have passed: sums of exp(x) and x exp(x), where x is a
// logit less `largest`.
struct RowState {
  double largest = -HUGE_VAL;
  double sum = 0.0;
  double weighted = 0.0;
  int64_t index = 0;
};

// Takes up codes whose largest logit is `largest`, before their own sums; returns the factor by
// which what was summed so far has shrunk.
double raise(RowState* state, double largest) {
  const double change = state->largest - largest;
  state->largest = largest;
  if (change == -HUGE_VAL) return 0.0;  // there was nothing before
  const double factor = std::exp(change);
  state->weighted = factor * (state->weighted + change * state->sum);
  state->sum *= factor;
  return factor;
}

template <class T>
void forward(const SoftAssignProblem& problem, const SoftAssignResults& results,
             const Parallel& parallel) {
  const SoftAssignLoops<T>& loops = soft_assign_loops<T>(simd_level());
  const int64_t dim = problem.dim, num_codes = problem.num_codes;
  const int64_t value_columns = round_up(problem.value_dim, loops.panel);
  const bool expected = results.expected.data != nullptr;
  const SoftFrame frame(problem, parallel);
  const ScoreColumns<T> codes(problem.codebook, num_codes, dim, frame.score_centre(),
                              frame.code_terms.data(), -HUGE_VAL, frame.wide, loops.panel,
                              parallel);
  AlignedArray<T> values;
  if (expected) {
    values = pack_columns<T>(problem.values, num_codes, problem.value_dim, nullptr, PackFor::kSums,
                             loops.panel, parallel);
  }

  const SoftPass pass(problem.num_rows, num_codes, dim, parallel);
  pass.run(parallel, [&] {
    return [&, z = OwnRows<T>(dim), noise = TileNoise<T>(problem, loops),
            scores = TileScores<T>(frame, loops, codes),
            sums = allocate_array<T>(expected ? kSoftBlockRows * value_columns : 0),
            line = std::vector<double>(problem.value_dim)](int64_t begin, int64_t count) mutable {
      z.load(problem.z, begin, count, problem.squared ? frame.score_centre() : nullptr);
      const int64_t padded = round_up(count, kSoftRowStep);
      RowState states[kSoftBlockRows];
      if (expected) std::fill(sums.get(), sums.get() + padded * value_columns, T(0));
      for (int64_t k = 0; k < num_codes; k += kSoftBlockColumns) {
        const int64_t size = std::min(kSoftBlockColumns, num_codes - k);
        const int64_t columns = round_up(size, loops.panel);
        scores.multiply(z, padded, k, columns);
        noise.of_latents(begin, count, k, columns);
        for (int64_t r = 0; r < count; ++r) {
          RowState& state = states[r];
          const double largest = scores.logits(r, k, columns, noise.row(r));
          if (largest > state.largest) {
            state.index = k + scores.find(r, size, largest);
            const double factor = raise(&state, largest);
            if (expected) {
              loops.rescale(sums.get() + r * value_columns, value_columns, static_cast<T>(factor));
            }
          }
          // Where every code so far is masked by a bias of minus infinity, any shift will do.
          const bool masked = std::isinf(state.largest) && state.largest < 0;
          const double shift = scores.narrow(r, columns, masked ? 0.0 : -state.largest);
          T weighted;
          state.sum +=
              loops.exponentials(scores.row(r), columns, static_cast<T>(-shift), &weighted);
          state.weighted += weighted;
        }
        if (expected) {
          loops.add_product(scores.data(), kSoftBlockColumns, padded,
                            values.get() + k * value_columns, size, value_columns / loops.panel,
                            sums.get(), value_columns);
        }
      }
      for (int64_t r = 0; r < count; ++r) {
        const RowState& state = states[r];
        const double log_sum_exp = state.largest + std::log(state.sum) +
                                   frame.row_constant(problem, z.as_given() + r * dim);
        const double entropy = std::log(state.sum) - state.weighted / state.sum;
        const bool defined = !std::isnan(log_sum_exp);
        const int64_t index = defined ? state.index : 0;
        double* of_latent = results.statistics + kSoftStatistics * (begin + r);
        of_latent[0] = log_sum_exp;
        of_latent[1] = entropy;
        of_latent[2] = static_cast<double>(index);
        if (results.indices != nullptr) results.indices[begin + r] = index;
        if (results.entropy.data != nullptr) store_rows(results.entropy, begin + r, 1, 1, &entropy);
        if (results.log_sum_exp.data != nullptr) {
          store_rows(results.log_sum_exp, begin + r, 1, 1, &log_sum_exp);
        }
        if (!expected) continue;
        for (int64_t d = 0; d < problem.value_dim; ++d) {
          line[d] = static_cast<double>(sums[r * value_columns + d]) / state.sum;
        }
        store_rows(results.expected, begin + r, 1, problem.value_dim, line.data());
      }
    };
  });
}

template <class T>
void mean(const SoftAssignProblem& problem, const double* statistics, const Rows& out,
          const Parallel& parallel) {
  const SoftAssignLoops<T>& loops = soft_assign_loops<T>(simd_level());
  const int64_t dim = problem.dim, num_rows = problem.num_rows;
  const SoftFrame frame(problem, parallel);
  // A latent's probabilities as a factor, exp of minus its entropy, times what is near 1 where they
  // are: its logarithm is near 0, and is rounded the less.
  std::vector<double> add = frame.latent_terms(problem, statistics, false, parallel);
  std::vector<T> factors(static_cast<size_t>(round_up(num_rows, kSoftBlockColumns)));
  for (int64_t n = 0; n < num_rows; ++n) {
    factors[n] = static_cast<T>(std::exp(-statistics[kSoftStatistics * n + 1]));
    add[n] -= std::log(static_cast<double>(factors[n]));
  }
  const ScoreColumns<T> latents(problem.z, num_rows, dim,
                                problem.squared ? frame.score_centre() : nullptr, add.data(),
                                -HUGE_VAL, frame.wide, loops.panel, parallel);
  const auto scale = static_cast<T>(frame.scale);

  const SoftPass pass(problem.num_codes, num_rows, dim, parallel);
  pass.run(parallel, [&] {
    return [&, codes = OwnRows<T>(dim), noise = TileNoise<T>(problem, loops),
            scores = TileScores<T>(frame, loops, latents)](int64_t begin, int64_t count) mutable {
      codes.load(problem.codebook, begin, count, frame.score_centre());
      double sums[kSoftBlockRows] = {};
      for (int64_t n = 0; n < num_rows; n += kSoftBlockColumns) {
        const int64_t columns = round_up(std::min(kSoftBlockColumns, num_rows - n), loops.panel);
        scores.multiply(codes, round_up(count, kSoftRowStep), n, columns);
        noise.of_codes(begin, count, n, columns);
        for (int64_t r = 0; r < count; ++r) {
          const double term = frame.code_terms[begin + r];
          if (frame.wide) {
            scores.logits(r, n, columns, noise.row(r));
            scores.narrow(r, columns, term);
          }
          sums[r] += loops.probabilities(scores.row(r), columns, scale, static_cast<T>(term),
                                         frame.wide ? nullptr : latents.add.data() + n,
                                         noise.row(r), factors.data() + n);
        }
      }
      for (int64_t r = 0; r < count; ++r) {
        // Of no rows there is no mean: 0 / 0 is NaN, as torch has it.
        const double probability = sums[r] / static_cast<double>(num_rows);
        store_rows(out, begin + r, 1, 1, &probability);
      }
    };
  });
}

}  // namespace

void soft_assign(const SoftAssignProblem& problem, const SoftAssignResults& results,
                 const Parallel& parallel) {
  problem.fp64 ? forward<double>(problem, results, parallel)
               : forward<float>(problem, results, parallel);
}

void soft_assign_mean(const SoftAssignProblem& problem, const double* statistics, const Rows& out,
                      const Parallel& parallel) {
  problem.fp64 ? mean<double>(problem, statistics, out, parallel)
               : mean<float>(problem, statistics, out, parallel);
}

}  // namespace vqgan_fast
