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
  double pack_call;           // whatever is packed
  double code, code_element;  // for each code that is packed (the direct way: turned), each element
};

// Nanoseconds of going through boxes of codes.
struct BoxesCost {
  double call;
  double row, row_element, cycle;  // for each row, each element, each of boxes_cycles
  // Packing: whatever it is, for each code, for each level of the tree above it, each element.
  double pack_call, code, code_level, code_element;
};

struct LevelCost {
  DenseCost direct, fp32, int16;
  BoxesCost boxes;
  DenseCost int8 = {};  // of levels with dot products of bytes
};

// Fitted by benchmarks/fit_search_cost.py on one core: AVX2 of an AMD Zen 3, which has no more, AMX
// of an Intel Xeon (Granite Rapids by its cache), the other levels of a Zen 4: AVX-VNNI as that CPU
// takes the same instructions in the form of AVX-512. NEON is an estimate.
// nearest_code_correction has by how much AVX2, the levels with VNNI and AMX differ from this.
constexpr LevelCost kBaseline = {{0, 104, 2.97, 0.109, 0.0915, 0, 0.944, 0},
                                 {560, 30, 4.37, 0.12, 0.0503, 2500, 6.16, 1.03},
                                 {1310, 48.7, 1.79, 0.273, 0.185, 2500, 13.2, 1.27},
                                 {620, 12, 2.46, 0.711, 2500, 6.9, 4.59, 2.55}};
constexpr LevelCost kNeon = {{0, 104, 2.97, 0.109, 0.0915, 0, 0.944, 0},
                             {560, 30, 2, 0.03, 0.035, 2500, 6.16, 1.03},
                             {1310, 48.7, 1.79, 0.273, 0.185, 2500, 13.2, 1.27},
                             {620, 12, 2.46, 0.711, 2500, 6.9, 4.59, 2.55}};
constexpr LevelCost kNeonDot = {kNeon.direct,
                                kNeon.fp32,
                                kNeon.int16,
                                kNeon.boxes,
                                {4430, 194, 1.36, 0.07, 0.0095, 3470, 52.7, 0.686}};
constexpr LevelCost kAvx2 = {{2110, 183, 1.34, 0.0604, 0.0228, 0, 0.566, 0.0465},
                             {2970, 22.4, 1.37, 0.00821, 0.0172, 2500, 4.31, 0.405},
                             {3530, 60, 0.464, 0.0239, 0.0128, 2500, 24, 0.526},
                             {3170, 20.7, 2.46, 0.243, 2500, 11.7, 4.31, 4.67}};
constexpr LevelCost kAvxVnni = {{1843, 185.9, 1.191, 0.03896, 0.02599, 0, 0.8549, 0.02543},
                                {3105, 24.86, 1.402, 0.002585, 0.01894, 2643, 5.105, 0.3672},
                                {4097, 100.2, 0.5343, 0.01279, 0.01248, 3755, 35.89, 0.4777},
                                {3511, 12.58, 4.387, 0.2955, 251.4, 13.1, 2.85, 5.383},
                                {5257, 204.8, 1.363, 0.0157, 0.01066, 3907, 53.66, 0.656}};
constexpr LevelCost kAvx512 = {{0, 127, 1.47, 0.048, 0.0213, 0, 0.437, 0.0269},
                               {730, 36.6, 1.11, 0.0182, 0.0174, 2500, 4.29, 0.337},
                               {1050, 41, 1.08, 0.0715, 0.0101, 2500, 20.3, 0.619},
                               {590, 19.8, 1.63, 0.232, 2500, 6.88, 4.62, 2.55}};
constexpr LevelCost kAvx512Vnni = {{1568, 214.2, 0.8705, 0.02545, 0.03111, 0, 0.7225, 0.01563},
                                   {2680, 24.75, 1.543, 0.000229, 0.01992, 2475, 4.512, 0.3524},
                                   {3357, 84.51, 0.8412, 0.01998, 0.01112, 2960, 29.6, 0.5362},
                                   {2908, 19.22, 5.222, 0.2439, 399.1, 7.995, 3.02, 5.375},
                                   {4429, 193.6, 1.355, 0.0167, 0.00774, 3465, 52.67, 0.6862}};
constexpr LevelCost kAmx = {{2006, 269.5, 1.051, 0.02061, 0.02198, 0, 0.6058, 0.07478},
                            {3282, 20.05, 1.55, 0.006811, 0.01281, 2880, 4.169, 0.4079},
                            {4273, 62.08, 0.9128, 0.02385, 0.005704, 3679, 22.05, 0.8432},
                            {3689, 16.41, 3.843, 0.1978, 0, 21.09, 1.623, 5.119}};

// On a line so many codes lie so close that their scores often cannot be told apart.
constexpr double kCrowdedLine = 128;

// How much more packing an element costs that has to come from behind the second-level cache,
// twice.
constexpr double kFarBytes = 2 << 20;
constexpr double kFarFactor = 1.9;

const LevelCost& cost_of(SimdLevel level) {
  switch (level) {
    case SimdLevel::kNeon:
      return kNeon;
    case SimdLevel::kNeonDot:
      return kNeonDot;
    case SimdLevel::kAvx2:
      return kAvx2;
    case SimdLevel::kAvxVnni:
      return kAvxVnni;
    case SimdLevel::kAvx512:
      return kAvx512;
    case SimdLevel::kAvx512Vnni:
      return kAvx512Vnni;
    case SimdLevel::kAmx:
      return kAmx;
    case SimdLevel::kBaseline:
      break;
  }
  return kBaseline;
}

const DenseCost& dense_cost(const LevelCost& cost, SearchWay way) {
  if (way == SearchWay::kFp32) return cost.fp32;
  if (way == SearchWay::kInt8) return cost.int8;
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
      dim_(static_cast<double>(dim)),
      correction_(level, num_rows_, num_codes_, dim_) {}

double SearchCost::search(SearchWay way) const {
  return search_formula(way) * correction_.factor(way, true);
}

double SearchCost::pack_and_search(SearchWay way) const {
  return (pack_formula(way) + search_formula(way)) * correction_.factor(way, false);
}

double SearchCost::search_formula(SearchWay way) const {
  const LevelCost& cost = cost_of(level_);
  if (way == SearchWay::kInt8 && cost.int8.pair_element == 0.0) {
    return std::numeric_limits<double>::infinity();
  }
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
  return dense.call + products * (dim_ < 2 && num_codes_ > kCrowdedLine ? 4.0 : 1.0);
}

double SearchCost::pack_formula(SearchWay way) const {
  const LevelCost& cost = cost_of(level_);
  if (way == SearchWay::kDirect) return 0.0;
  if (way == SearchWay::kBoxes) {
    const double levels = std::max(0.0, std::log2(num_codes_ / 32));
    return cost.boxes.pack_call + num_codes_ * (cost.boxes.code + levels * cost.boxes.code_level +
                                                dim_ * cost.boxes.code_element);
  }
  const DenseCost& dense = dense_cost(cost, way);
  const double far = 4 * num_codes_ * dim_ > kFarBytes ? kFarFactor : 1.0;
  return dense.pack_call + num_codes_ * (dense.code + far * dim_ * dense.code_element);
}

double SearchCost::hash() const { return 100.0 + 0.2 * num_codes_ * dim_; }

// The distances of a sample, and those of all codes to some dozen centres, whose elements take so
// long in fp64: very long where fused multiply-adds are calls. A rough estimate: what clusters take
// depends on how many there are. Most rows pass over a part of them.
double SearchCost::cluster_and_search() const {
  constexpr double kCall = 3e5, kSamples = 256, kCode = 250.0, kDistancesOfCode = 80.0;
  const double element = level_ == SimdLevel::kBaseline ? 1.0 : 0.07;
  const double sample = kSamples * kSamples * dim_ * element;
  const double codes = num_codes_ * (kCode + kDistancesOfCode * dim_ * element);
  const double products = std::min(search(SearchWay::kInt16), search(SearchWay::kFp32));
  return kCall + sample + codes + 0.5 * products;
}

}  // namespace vqgan_fast
