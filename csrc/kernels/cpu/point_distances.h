// Squared distances of rows to a few points, as the definition sums them: each is the true one
// times 1 + d, |d| <= (D + 2) 2^-53 / (1 - (D + 2) 2^-53), unless it underflows.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/direct_pass.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

// Holds one thread's memory.
class PointDistances {
 public:
  // points[p * dim + d], which must outlive it.
  PointDistances(const std::vector<double>& points, int64_t dim, SimdLevel level);
  PointDistances(const PointDistances&) = delete;
  PointDistances& operator=(const PointDistances&) = delete;

  // distances[r * number of points + p] for rows z[r * dim + d]. Infinite where a sum overflows,
  // NaN where an element is.
  void measure(const double* z, int64_t num_rows, double* distances);

 private:
  static double keep(void* self, int64_t row, int64_t first_point, int num_points,
                     const double* distances);

  const int64_t dim_;
  const int64_t num_points_;
  const Rows points_;
  DirectPass<double> pass_;
  std::vector<const double*> rows_;
  std::vector<double> limits_;
  double* out_ = nullptr;
};

}  // namespace vqgan_fast
