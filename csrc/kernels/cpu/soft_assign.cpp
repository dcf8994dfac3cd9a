#include "kernels/cpu/soft_assign.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cpu/soft_assign_blocks.h"

namespace vqgan_fast {

std::vector<double> soft_code_terms(const SoftAssignProblem& problem, const Parallel& parallel) {
  std::vector<double> terms(static_cast<size_t>(problem.num_codes));
  parallel.run(0, problem.num_codes, 1024, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    std::vector<double> code(static_cast<size_t>(problem.dim));
    for (int64_t k = begin; k < end; ++k) {
      double term = 0.0;
      if (problem.bias.data != nullptr) load_rows(problem.bias, k, 1, 1, &term);
      if (problem.squared) {
        load_rows(problem.codebook, k, 1, problem.dim, code.data());
        for (const double e : code) term -= e * e;
      }
      terms[k] = term / problem.temperature;
    }
  });
  return terms;
}

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
  if (!(largest > state->largest)) return 1.0;
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
  const auto codes =
      pack_columns<T>(problem.codebook, num_codes, dim, PackFor::kLogits, loops.panel, parallel);
  AlignedArray<T> values;
  if (expected) {
    values = pack_columns<T>(problem.values, num_codes, problem.value_dim, PackFor::kSums,
                             loops.panel, parallel);
  }
  const std::vector<T> add =
      padded_columns<T>(soft_code_terms(problem, parallel).data(), num_codes, -HUGE_VAL);
  const auto scale = static_cast<T>(soft_scale(problem));

  const SoftPass pass(problem.num_rows, num_codes, dim, parallel);
  pass.run(parallel, [&] {
    return [&, z = OwnRows<T>(dim), noise = TileNoise<T>(problem, loops),
            tile = allocate_array<T>(kSoftBlockRows * kSoftBlockColumns),
            sums = allocate_array<T>(expected ? kSoftBlockRows * value_columns : 0),
            line = std::vector<double>(problem.value_dim)](int64_t begin, int64_t count) mutable {
      z.load(problem.z, begin, count);
      const int64_t padded = round_up(count, kSoftRowStep);
      RowState states[kSoftBlockRows];
      if (expected) std::fill(sums.get(), sums.get() + padded * value_columns, T(0));
      for (int64_t k = 0; k < num_codes; k += kSoftBlockColumns) {
        const int64_t size = std::min(kSoftBlockColumns, num_codes - k);
        const int64_t columns = round_up(size, loops.panel);
        loops.multiply(z.data(), dim, padded, codes.get() + k * dim, dim, columns / loops.panel,
                       tile.get());
        noise.of_latents(begin, count, k, columns);
        for (int64_t r = 0; r < count; ++r) {
          RowState& state = states[r];
          T* row = tile.get() + r * kSoftBlockColumns;
          const T largest = loops.logits(row, columns, scale, add.data() + k, noise.row(r));
          if (largest > state.largest) {
            state.index = k + (std::find(row, row + size, largest) - row);
          }
          const double factor = raise(&state, static_cast<double>(largest));
          if (expected && factor != 1.0) {
            loops.rescale(sums.get() + r * value_columns, value_columns, static_cast<T>(factor));
          }
          // Where every code so far is masked by a bias of minus infinity, any shift will do.
          const T shift =
              std::isinf(state.largest) && state.largest < 0 ? T(0) : static_cast<T>(state.largest);
          T sum, weighted;
          loops.exponentials(row, columns, shift, &sum, &weighted);
          state.sum += sum;
          state.weighted += weighted;
        }
        if (expected) {
          loops.add_product(tile.get(), kSoftBlockColumns, padded, values.get() + k * value_columns,
                            size, value_columns / loops.panel, sums.get(), value_columns);
        }
      }
      for (int64_t r = 0; r < count; ++r) {
        const RowState& state = states[r];
        const double normalizer = state.largest + std::log(state.sum);
        const bool defined = !std::isnan(normalizer);
        results.normalizer[begin + r] = normalizer;
        if (results.indices != nullptr) results.indices[begin + r] = defined ? state.index : 0;
        if (results.entropy.data != nullptr) {
          const double entropy = std::log(state.sum) - state.weighted / state.sum;
          store_rows(results.entropy, begin + r, 1, 1, &entropy);
        }
        if (results.log_sum_exp.data != nullptr) {
          double norm2 = 0.0;
          for (int64_t d = 0; problem.squared && d < dim; ++d) norm2 += z(r, d) * z(r, d);
          const double log_sum_exp = normalizer - norm2 / problem.temperature;
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
void mean(const SoftAssignProblem& problem, const double* normalizer, const Rows& out,
          const Parallel& parallel) {
  const SoftAssignLoops<T>& loops = soft_assign_loops<T>(simd_level());
  const int64_t dim = problem.dim, num_rows = problem.num_rows;
  const auto latents =
      pack_columns<T>(problem.z, num_rows, dim, PackFor::kLogits, loops.panel, parallel);
  const std::vector<double> terms = soft_code_terms(problem, parallel);
  std::vector<T> add = padded_columns<T>(normalizer, num_rows, HUGE_VAL);
  for (T& x : add) x = -x;
  const auto scale = static_cast<T>(soft_scale(problem));

  const SoftPass pass(problem.num_codes, num_rows, dim, parallel);
  pass.run(parallel, [&] {
    return [&, codes = OwnRows<T>(dim), noise = TileNoise<T>(problem, loops),
            tile = allocate_array<T>(kSoftBlockRows * kSoftBlockColumns)](int64_t begin,
                                                                          int64_t count) mutable {
      codes.load(problem.codebook, begin, count);
      double sums[kSoftBlockRows] = {};
      for (int64_t n = 0; n < num_rows; n += kSoftBlockColumns) {
        const int64_t columns = round_up(std::min(kSoftBlockColumns, num_rows - n), loops.panel);
        loops.multiply(codes.data(), dim, round_up(count, kSoftRowStep), latents.get() + n * dim,
                       dim, columns / loops.panel, tile.get());
        noise.of_codes(begin, count, n, columns);
        for (int64_t r = 0; r < count; ++r) {
          sums[r] += loops.sum_probabilities(tile.get() + r * kSoftBlockColumns, columns, scale,
                                             static_cast<T>(terms[begin + r]), add.data() + n,
                                             noise.row(r));
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

void soft_assign_mean(const SoftAssignProblem& problem, const double* normalizer, const Rows& out,
                      const Parallel& parallel) {
  problem.fp64 ? mean<double>(problem, normalizer, out, parallel)
               : mean<float>(problem, normalizer, out, parallel);
}

}  // namespace vqgan_fast
