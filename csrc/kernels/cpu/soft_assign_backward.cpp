// The gradients of soft_assign: the logits are computed anew, once with latents as rows, for
// grad_z, and once with codes as rows, for the rest.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cpu/soft_assign.h"
#include "kernels/cpu/soft_assign_blocks.h"

namespace vqgan_fast {
namespace {

// Latents or codes, and what of the formula belongs to each of them.
struct Side {
  Rows rows;
  Rows weights;  // grad_expected of latents, values of codes; no data without grad_expected
  int64_t count;
  std::vector<double> add;  // to the logit
  const double* term;       // may be null
  const double* entropy;    // may be null
  Rows grad_rows;           // by `rows`
  Rows grad_weights;        // the sum of probabilities times the other side's weights
  Rows grad_add;            // the sum of gradients of logits
};

double value_or_zero(const double* values, int64_t i) {
  return values == nullptr ? 0.0 : values[i];
}

template <class T>
void gradient_pass(const SoftAssignProblem& problem, const Side& own, const Side& other,
                   bool latents_are_rows, const Parallel& parallel) {
  const SoftAssignLoops<T>& loops = soft_assign_loops<T>(simd_level());
  const int panel = loops.panel;
  const int64_t dim = problem.dim, weight_dim = problem.value_dim;
  const bool weighted = own.weights.data != nullptr;
  const bool sum_weights = own.grad_weights.data != nullptr;
  const bool sum_rows = own.grad_rows.data != nullptr;
  const int64_t row_columns = round_up(dim, panel), weight_columns = round_up(weight_dim, panel);
  const auto packed = [&](const Rows& rows, int64_t columns, PackFor what) {
    return pack_columns<T>(rows, other.count, columns, what, panel, parallel);
  };
  const auto logits = packed(other.rows, dim, PackFor::kLogits);
  AlignedArray<T> rows, weights, weight_rows;
  if (sum_rows) rows = packed(other.rows, dim, PackFor::kSums);
  if (weighted) weights = packed(other.weights, weight_dim, PackFor::kLogits);
  if (sum_weights) weight_rows = packed(other.weights, weight_dim, PackFor::kSums);
  const auto add = padded_columns<T>(other.add.data(), other.count, -HUGE_VAL);
  const auto term = padded_columns<T>(other.term, other.count, 0.0);
  const auto entropy = padded_columns<T>(other.entropy, other.count, 0.0);
  const auto scale = static_cast<T>(soft_scale(problem));

  const SoftPass pass(own.count, other.count, dim, parallel);
  pass.run(parallel, [&] {
    constexpr int64_t kTile = kSoftBlockRows * kSoftBlockColumns;
    return [&, x = OwnRows<T>(dim), w = OwnRows<T>(weighted ? weight_dim : 0),
            noise = TileNoise<T>(problem, loops), products = allocate_array<T>(kTile),
            values = allocate_array<T>(weighted ? kTile : 0),
            grad_rows = allocate_array<T>(kSoftBlockRows * row_columns),
            grad_weights = allocate_array<T>(sum_weights ? kSoftBlockRows * weight_columns : 0),
            line = std::vector<double>(std::max(dim, weight_dim))](int64_t begin,
                                                                   int64_t count) mutable {
      const int64_t padded = round_up(count, kSoftRowStep);
      x.load(own.rows, begin, count);
      if (weighted) w.load(own.weights, begin, count);
      std::fill(grad_rows.get(), grad_rows.get() + padded * row_columns, T(0));
      if (sum_weights) {
        std::fill(grad_weights.get(), grad_weights.get() + padded * weight_columns, T(0));
      }
      double sums[kSoftBlockRows] = {};
      for (int64_t j = 0; j < other.count; j += kSoftBlockColumns) {
        const int64_t size = std::min(kSoftBlockColumns, other.count - j);
        const int64_t columns = round_up(size, panel);
        loops.multiply(x.data(), dim, padded, logits.get() + j * dim, dim, columns / panel,
                       products.get());
        if (weighted) {
          loops.multiply(w.data(), weight_dim, padded, weights.get() + j * weight_dim, weight_dim,
                         columns / panel, values.get());
        }
        latents_are_rows ? noise.of_latents(begin, count, j, columns)
                         : noise.of_codes(begin, count, j, columns);
        for (int64_t r = 0; r < count; ++r) {
          SoftGradientRow<T> row;
          row.scale = scale;
          row.add = static_cast<T>(own.add[begin + r]);
          row.term = static_cast<T>(value_or_zero(own.term, begin + r));
          row.entropy = static_cast<T>(value_or_zero(own.entropy, begin + r));
          row.column_add = add.data() + j;
          row.column_term = term.data() + j;
          row.column_entropy = entropy.data() + j;
          row.noise = noise.row(r);
          sums[r] += loops.gradients(row, columns, products.get() + r * kSoftBlockColumns,
                                     weighted ? values.get() + r * kSoftBlockColumns : nullptr);
        }
        if (sum_rows) {
          loops.add_product(products.get(), kSoftBlockColumns, padded, rows.get() + j * row_columns,
                            size, row_columns / panel, grad_rows.get(), row_columns);
        }
        if (sum_weights) {
          loops.add_product(values.get(), kSoftBlockColumns, padded,
                            weight_rows.get() + j * weight_columns, size, weight_columns / panel,
                            grad_weights.get(), weight_columns);
        }
      }
      const double factor = soft_scale(problem);
      for (int64_t r = 0; r < count; ++r) {
        if (sum_rows) {
          for (int64_t d = 0; d < dim; ++d) {
            const double pull = problem.squared ? sums[r] * x(r, d) : 0.0;
            line[d] = factor * (static_cast<double>(grad_rows[r * row_columns + d]) - pull);
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

template <class T>
void backward(const SoftAssignProblem& problem, const SoftAssignGradients& gradients,
              const Parallel& parallel) {
  const bool weighted = gradients.grad_expected.data != nullptr;
  Side latents{problem.z,
               gradients.grad_expected,
               problem.num_rows,
               std::vector<double>(static_cast<size_t>(problem.num_rows)),
               gradients.row_term,
               gradients.grad_entropy,
               gradients.grad_z,
               Rows(),
               Rows()};
  for (int64_t n = 0; n < problem.num_rows; ++n) latents.add[n] = -gradients.normalizer[n];
  const Side codes{problem.codebook,        weighted ? problem.values : Rows(),
                   problem.num_codes,       soft_code_terms(problem, parallel),
                   gradients.code_term,     nullptr,
                   gradients.grad_codebook, gradients.grad_values,
                   gradients.grad_bias};
  if (latents.grad_rows.data != nullptr) gradient_pass<T>(problem, latents, codes, true, parallel);
  if (codes.grad_rows.data != nullptr || codes.grad_weights.data != nullptr ||
      codes.grad_add.data != nullptr) {
    gradient_pass<T>(problem, codes, latents, false, parallel);
  }
}

}  // namespace

void soft_assign_backward(const SoftAssignProblem& problem, const SoftAssignGradients& gradients,
                          const Parallel& parallel) {
  problem.fp64 ? backward<double>(problem, gradients, parallel)
               : backward<float>(problem, gradients, parallel);
}

}  // namespace vqgan_fast
