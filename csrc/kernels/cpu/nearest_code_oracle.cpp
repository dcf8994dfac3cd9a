#include "kernels/cpu/nearest_code_oracle.h"

#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/cpu/float_mode.h"

namespace vqgan_fast {
namespace {

bool all_finite(const double* x, int64_t dim) {
  for (int64_t d = 0; d < dim; ++d) {
    if (!std::isfinite(x[d])) return false;
  }
  return true;
}

double squared_distance(const double* x, const double* e, int64_t dim) {
  double acc = 0.0;
  for (int64_t d = 0; d < dim; ++d) acc = std::fma(x[d] - e[d], x[d] - e[d], acc);
  return acc;
}

}  // namespace

void nearest_code_oracle(const double* z, const double* codebook, int64_t num_rows,
                         int64_t num_codes, int64_t dim, int64_t* indices, double* distances) {
  const DefaultFloatMode float_mode;
  for (int64_t n = 0; n < num_rows; ++n) {
    int64_t best_index = -1;
    double best = std::numeric_limits<double>::quiet_NaN();
    if (all_finite(z + n * dim, dim)) {
      for (int64_t k = 0; k < num_codes; ++k) {
        const double distance = squared_distance(z + n * dim, codebook + k * dim, dim);
        if (std::isnan(distance)) continue;
        if (best_index < 0 || distance < best) {
          best = distance;
          best_index = k;
        }
      }
    }
    indices[n] = best_index < 0 ? 0 : best_index;
    distances[n] = best;
  }
}

}  // namespace vqgan_fast
