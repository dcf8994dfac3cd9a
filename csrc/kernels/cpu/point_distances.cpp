#include "kernels/cpu/point_distances.h"

#include <algorithm>
#include <limits>

namespace vqgan_fast {

PointDistances::PointDistances(const std::vector<double>& points, int64_t dim, SimdLevel level)
    : dim_(dim),
      num_points_(static_cast<int64_t>(points.size()) / dim),
      points_(contiguous_rows(points.data(), DType::kFloat64, num_points_, dim)),
      pass_(points_, dim, code_distance_kernels(level)) {}

void PointDistances::measure(const double* z, int64_t num_rows, double* distances) {
  rows_.resize(num_rows);
  for (int64_t r = 0; r < num_rows; ++r) rows_[r] = z + r * dim_;
  limits_.assign(num_rows, std::numeric_limits<double>::infinity());
  // The pass need not tell what is not a number.
  std::fill_n(distances, num_rows * num_points_, std::numeric_limits<double>::quiet_NaN());
  out_ = distances;
  pass_.run(rows_.data(), num_rows, 0, num_points_, limits_.data(), keep, this);
}

double PointDistances::keep(void* self, int64_t row, int64_t first_point, int num_points,
                            const double* distances) {
  const auto* to = static_cast<PointDistances*>(self);
  const int64_t count = std::min<int64_t>(num_points, to->num_points_ - first_point);
  std::copy_n(distances, count, to->out_ + row * to->num_points_ + first_point);
  return std::numeric_limits<double>::infinity();
}

}  // namespace vqgan_fast
