#include "kernels/cpu/nearest_code_oracle.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/cpu/float_mode.h"

namespace vqgan_fast {
namespace {

// Codes that are measured side by side. A distance is a sum of one term after the other: alone,
// each term would wait for the last.
constexpr int64_t kCodes = 16;

bool all_finite(const double* x, int64_t dim) {
  for (int64_t d = 0; d < dim; ++d) {
    if (!std::isfinite(x[d])) return false;
  }
  return true;
}

// codes[d * kCodes + i]
inline __attribute__((always_inline)) void measure(const double* x, const double* codes,
                                                   int64_t dim, double* distances) {
  double sums[kCodes] = {};
  for (int64_t d = 0; d < dim; ++d) {
    for (int64_t i = 0; i < kCodes; ++i) {
      const double difference = x[d] - codes[d * kCodes + i];
      sums[i] = std::fma(difference, difference, sums[i]);
    }
  }
  std::copy_n(sums, kCodes, distances);
}

using Measure = void (*)(const double* x, const double* codes, int64_t dim, double* distances);

void measure_anywhere(const double* x, const double* codes, int64_t dim, double* distances) {
  measure(x, codes, dim, distances);
}

#ifdef __x86_64__
// The same loop where std::fma is an instruction. Elsewhere it is a function of the C library, with
// the same results and some ten times slower.
__attribute__((target("avx2,fma"))) void measure_by_fma(const double* x, const double* codes,
                                                        int64_t dim, double* distances) {
  measure(x, codes, dim, distances);
}
#endif

Measure fastest_measure() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return measure_by_fma;
#endif
  return measure_anywhere;
}

}  // namespace

void nearest_code_oracle(const double* z, const double* codebook, int64_t num_rows,
                         int64_t num_codes, int64_t dim, int64_t* indices, double* distances) {
  const DefaultFloatMode float_mode;
  const Measure measure = fastest_measure();
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  for (int64_t n = 0; n < num_rows; ++n) {
    indices[n] = -1;
    distances[n] = kNaN;
  }
  std::vector<double> codes(kCodes * dim);
  for (int64_t first = 0; first < num_codes; first += kCodes) {
    for (int64_t i = 0; i < kCodes; ++i) {
      const int64_t k = first + i;
      for (int64_t d = 0; d < dim; ++d) {
        codes[d * kCodes + i] = k < num_codes ? codebook[k * dim + d] : kNaN;
      }
    }
    for (int64_t n = 0; n < num_rows; ++n) {
      double found[kCodes];
      measure(z + n * dim, codes.data(), dim, found);
      for (int64_t i = 0; i < kCodes; ++i) {
        if (std::isnan(found[i])) continue;
        if (indices[n] >= 0 && found[i] >= distances[n]) continue;
        indices[n] = first + i;
        distances[n] = found[i];
      }
    }
  }
  for (int64_t n = 0; n < num_rows; ++n) {
    if (indices[n] >= 0 && all_finite(z + n * dim, dim)) continue;
    indices[n] = 0;
    distances[n] = kNaN;
  }
}

}  // namespace vqgan_fast
