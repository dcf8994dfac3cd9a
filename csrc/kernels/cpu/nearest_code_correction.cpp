#include "kernels/cpu/nearest_code_correction.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace vqgan_fast {
namespace {

// The sizes that were measured, as base-2 logarithms: 1 to 32768 rows, 64 to 262144 codes, and 1,
// 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64, 128, 256 dimensions. AVX2 was not measured at 8 and
// 32768 rows: they have the mean of 4 and 16, and what 4096 have. AVX2 and AMX were not measured at
// 8192 codes: they have the mean of 4096 and 16384.
constexpr double kRows[] = {0, 1, 2, 3, 4, 6, 8, 10, 12, 15};
constexpr double kCodes[] = {6, 8, 10, 12, 13, 14, 18};
constexpr double kDims[] = {0, 1, 1.585, 2, 2.3219, 2.585, 3, 3.3219, 3.585, 4, 4.585, 5, 6, 7, 8};

// The direct way, which packs nothing; fp32, int16, with VNNI int8, and boxes with packed codes;
// the same anew.
constexpr int kNumCurves = 7, kNumCurvesVnni = 9;

// Percents: 10 says that it takes 1.1 times as long as the formula says. Printed by
// benchmarks/fit_search_cost.py.
using Curve = int16_t[std::size(kDims)][std::size(kCodes)][std::size(kRows)];
constexpr Curve kAvx2[] = {
#include "kernels/cpu/nearest_code_correction_avx2.inc"
};
constexpr Curve kAvxVnni[] = {
#include "kernels/cpu/nearest_code_correction_avxvnni.inc"
};
constexpr Curve kAvx512Vnni[] = {
#include "kernels/cpu/nearest_code_correction_avx512vnni.inc"
};
constexpr Curve kAmx[] = {
#include "kernels/cpu/nearest_code_correction_amx.inc"
};
static_assert(std::size(kAvx2) == kNumCurves && std::size(kAmx) == kNumCurves &&
              std::size(kAvxVnni) == kNumCurvesVnni && std::size(kAvx512Vnni) == kNumCurvesVnni);

// Null for levels that were not measured.
const Curve* curves_of(SimdLevel level) {
  if (level == SimdLevel::kAmx) return kAmx;
  if (level == SimdLevel::kAvx512Vnni) return kAvx512Vnni;
  if (level == SimdLevel::kAvxVnni) return kAvxVnni;
  return level == SimdLevel::kAvx2 ? kAvx2 : nullptr;
}

double interpolate(double low, double high, double t) { return low + t * (high - low); }

}  // namespace

template <size_t count>
SearchCorrection::Place SearchCorrection::place_of(double size, const double (&log2_sizes)[count]) {
  const double inside = std::clamp(std::log2(size), log2_sizes[0], log2_sizes[count - 1]);
  int low = 0;
  while (low + 2 < static_cast<int>(count) && log2_sizes[low + 1] <= inside) ++low;
  return {low, (inside - log2_sizes[low]) / (log2_sizes[low + 1] - log2_sizes[low])};
}

SearchCorrection::SearchCorrection(SimdLevel level, double num_rows, double num_codes, double dim)
    : level_(level) {
  if (curves_of(level) == nullptr) return;
  row_ = place_of(num_rows, kRows);
  code_ = place_of(num_codes, kCodes);
  dim_ = place_of(dim, kDims);
}

double SearchCorrection::factor(SearchWay way, bool packed) const {
  const Curve* curves = curves_of(level_);
  if (curves == nullptr) return 1.0;
  const bool has_int8 = level_ == SimdLevel::kAvxVnni || level_ == SimdLevel::kAvx512Vnni;
  if (way == SearchWay::kInt8 && !has_int8) return 1.0;
  const int index = static_cast<int>(way) - (way == SearchWay::kBoxes && !has_int8);
  const int anew = has_int8 ? 4 : 3;
  const Curve& curve = curves[way == SearchWay::kDirect || packed ? index : anew + index];
  const auto along_rows = [&](int d, int k) {
    return interpolate(curve[d][k][row_.low], curve[d][k][row_.low + 1], row_.t);
  };
  const auto along_codes = [&](int d) {
    return interpolate(along_rows(d, code_.low), along_rows(d, code_.low + 1), code_.t);
  };
  return 1.0 + 0.01 * interpolate(along_codes(dim_.low), along_codes(dim_.low + 1), dim_.t);
}

}  // namespace vqgan_fast
