#include "kernels/cpu/nearest_code_cost.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

namespace vqgan_fast {
namespace {

// Nanoseconds of a way that goes through all pairs of a row and a code.
struct DenseCost {
  double call;                // once, beyond what every way costs
  double row, row_element;    // for each row, for each of its elements
  double pair, pair_element;  // for each pair, for each element of both
  double code, code_element;  // for each code that is packed (the direct way: turned), each element
};

// Nanoseconds of going through boxes of codes.
struct BoxesCost {
  double call;
  double row, row_element, cycle;  // for each row, each element, each of boxes_cycles
  double code, code_level,
      code_element;  // packing: for each code, for each level of the tree above
};

struct LevelCost {
  DenseCost direct, fp32, int16;
  BoxesCost boxes;
};

// Fitted on one core of an AMD EPYC (Zen 4) by benchmarks/fit_search_cost.py; NEON is an estimate.
constexpr LevelCost kBaseline = {{0, 97, 3.49, 0.108, 0.0906, 0.73, 0.14},
                                 {470, 30, 4.53, 0.119, 0.0501, 6.12, 1.12},
                                 {1310, 47.4, 2.28, 0.262, 0.186, 13.5, 1.34},
                                 {410, 12, 2.46, 0.711, 14, 3.64, 2.5}};
constexpr LevelCost kNeon = {{0, 97, 3.49, 0.108, 0.0906, 0.73, 0.14},
                             {470, 30, 2, 0.03, 0.035, 6.12, 1.12},
                             {1310, 47.4, 2.28, 0.262, 0.186, 13.5, 1.34},
                             {410, 12, 2.46, 0.711, 14, 3.64, 2.5}};
constexpr LevelCost kAvx2 = {{0, 115, 1.98, 0.0639, 0.0218, 0.537, 0.112},
                             {710, 30.3, 1.39, 0.0201, 0.0172, 4.9, 0.33},
                             {1120, 54.7, 1.08, 0.0922, 0.00998, 26.3, 0.491},
                             {600, 7.6, 1.42, 0.298, 13.2, 3.65, 2.56}};
constexpr LevelCost kAvx512 = {{0, 116, 2.02, 0.0493, 0.0194, 0.31, 0.117},
                               {730, 37.3, 1.48, 0.0186, 0.0173, 4.21, 0.389},
                               {1140, 41.6, 1.39, 0.0695, 0.0106, 20.1, 0.714},
                               {700, 19.8, 1.63, 0.232, 14.2, 3.55, 2.4}};
constexpr LevelCost kAvx512Vnni = {{0, 119, 1.91, 0.048, 0.0196, 0.339, 0.114},
                                   {670, 38.3, 1.41, 0.0186, 0.0173, 4.33, 0.364},
                                   {1100, 40.9, 1.36, 0.066, 0.00804, 20.7, 0.663},
                                   {680, 20, 1.65, 0.23, 12.7, 3.73, 2.54}};

const LevelCost& cost_of(SimdLevel level) {
  switch (level) {
    case SimdLevel::kNeon:
      return kNeon;
    case SimdLevel::kAvx2:
      return kAvx2;
    case SimdLevel::kAvx512:
      return kAvx512;
    case SimdLevel::kAvx512Vnni:
      return kAvx512Vnni;
    case SimdLevel::kBaseline:
      break;
  }
  return kBaseline;
}

const DenseCost& dense_cost(const LevelCost& cost, SearchWay way) {
  if (way == SearchWay::kFp32) return cost.fp32;
  return way == SearchWay::kInt16 ? cost.int16 : cost.direct;
}

// Cycles that one row costs among the boxes of K Gaussian codes with AVX-512, by D: about
// A (K / 1024)^p. The more dimensions, the less a box excludes.
double boxes_cycles(double num_codes, double dim) {
  struct Fit {
    double dim, a, p;
  };
  constexpr Fit kFits[] = {{1, 120, 0.19}, {2, 146, 0.19}, {3, 200, 0.14},   {4, 250, 0.18},
                           {6, 416, 0.40}, {8, 800, 0.45}, {12, 1780, 0.71}, {16, 3600, 0.9}};
  const Fit* high = std::begin(kFits) + 1;
  while (high + 1 != std::end(kFits) && high->dim < dim) ++high;
  const Fit* low = high - 1;
  const double t = (dim - low->dim) / (high->dim - low->dim);
  const double a = low->a * std::pow(high->a / low->a, t);
  return a * std::pow(num_codes / 1024, low->p + t * (high->p - low->p));
}

}  // namespace

SearchCost::SearchCost(SimdLevel level, int64_t num_rows, int64_t num_codes, int64_t dim)
    : level_(level),
      num_rows_(static_cast<double>(num_rows)),
      num_codes_(static_cast<double>(num_codes)),
      dim_(static_cast<double>(dim)) {}

double SearchCost::search(SearchWay way) const {
  const LevelCost& cost = cost_of(level_);
  if (way == SearchWay::kBoxes) {
    const BoxesCost& boxes = cost.boxes;
    return boxes.call + num_rows_ * (boxes.row + dim_ * boxes.row_element +
                                     boxes.cycle * boxes_cycles(num_codes_, dim_));
  }
  const DenseCost& dense = dense_cost(cost, way);
  const double products = num_rows_ * (dense.row + dim_ * dense.row_element +
                                       num_codes_ * (dense.pair + dim_ * dense.pair_element));
  if (way == SearchWay::kDirect) {
    return dense.call + products + num_codes_ * (dense.code + dim_ * dense.code_element);
  }
  // On a line codes lie so close that the scores of many cannot be told apart.
  return dense.call + products * (dim_ < 2 ? 4.0 : 1.0);
}

double SearchCost::pack(SearchWay way) const {
  const LevelCost& cost = cost_of(level_);
  if (way == SearchWay::kDirect) return 0.0;
  if (way == SearchWay::kBoxes) {
    const double levels = std::max(0.0, std::log2(num_codes_ / 32));
    return num_codes_ *
           (cost.boxes.code + levels * cost.boxes.code_level + dim_ * cost.boxes.code_element);
  }
  const DenseCost& dense = dense_cost(cost, way);
  return num_codes_ * (dense.code + dim_ * dense.code_element);
}

double SearchCost::hash() const { return 100.0 + 0.2 * num_codes_ * dim_; }

}  // namespace vqgan_fast
