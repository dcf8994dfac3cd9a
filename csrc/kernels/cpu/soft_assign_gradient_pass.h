// The pass that sums the gradients by logits, for soft_assign_backward.cpp: the logits are computed
// anew, with latents as rows or with codes as rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/cpu/soft_assign.h"
#include "kernels/cpu/soft_assign_blocks.h"
#include "kernels/cpu/soft_assign_frame.h"
#include "kernels/cpu/soft_assign_loops.h"
#include "kernels/cpu/soft_assign_scores.h"

namespace vqgan_fast {

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
  std::vector<double> anchor;  // taken from the products of weights, each good in T
  Rows grad_rows;              // by `rows`
  Rows grad_weights;           // the sum of probabilities times the other side's weights
  Rows grad_add;               // the sum of gradients of logits
  double* mean = nullptr;      // of latents: the same sum over that of the probabilities
};

inline double value_or_zero(const std::vector<double>& values, int64_t i) {
  return values.empty() ? 0.0 : values[i];
}

// A tile of products of weights, from which a latent's is taken.
template <class T>
void take_anchors(const Side& own, const Side& other, int64_t first_row, int64_t num_rows,
                  int64_t first_column, int64_t num_columns, T* products) {
  for (int64_t r = 0; r < num_rows; ++r, products += kSoftBlockColumns) {
    const auto anchor = static_cast<T>(value_or_zero(own.anchor, first_row + r));
    for (int64_t j = 0; !own.anchor.empty() && j < num_columns; ++j) products[j] -= anchor;
    for (int64_t j = 0; !other.anchor.empty() && j < num_columns; ++j) {
      products[j] -= static_cast<T>(other.anchor[first_column + j]);
    }
  }
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
  const bool keep_probabilities = weighted || own.mean != nullptr;
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
            values = allocate_array<T>(keep_probabilities ? kTile : 0),
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
      double sums[kSoftBlockRows] = {}, probabilities[kSoftBlockRows] = {};
      for (int64_t j = 0; j < other.count; j += kSoftBlockColumns) {
        const int64_t size = std::min(kSoftBlockColumns, other.count - j);
        const int64_t columns = round_up(size, panel);
        scores.multiply(x, padded, j, columns);
        if (weighted) {
          loops.multiply(w.data(), weight_dim, padded, weights.get() + j * weight_dim, weight_dim,
                         columns / panel, values.get());
          take_anchors(own, other, begin, count, j, size, values.get());
        } else if (keep_probabilities) {
          std::fill(values.get(), values.get() + kTile, T(0));
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
          row.add_first = !latents_are_rows;
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
          T* value = keep_probabilities ? values.get() + r * kSoftBlockColumns : nullptr;
          sums[r] += loops.gradients(row, columns, scores.row(r), value);
          if (own.mean != nullptr) probabilities[r] += std::accumulate(value, value + size, 0.0);
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
        if (own.mean != nullptr) own.mean[begin + r] = sums[r] / probabilities[r];
        if (own.grad_add.data != nullptr) {
          const double gradient = sums[r] / problem.temperature;
          store_rows(own.grad_add, begin + r, 1, 1, &gradient);
        }
      }
    };
  });
}

}  // namespace vqgan_fast
