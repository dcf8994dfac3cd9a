// What measurements add to the formulas of nearest_code_cost.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

enum class SearchWay { kDirect, kFp32, kInt16, kInt8, kBoxes };

// By how much a search takes longer than its formula says. Between the sizes that were measured
// this is interpolated, beyond them it stays.
class SearchCorrection {
 public:
  SearchCorrection(SimdLevel level, double num_rows, double num_codes, double dim);

  // The factor for searching with a packed codebook, or for packing it and searching. 1 for levels
  // that were not measured.
  double factor(SearchWay way, bool packed) const;

 private:
  // Where a size lies on the way from one that was measured to the next.
  struct Place {
    int low = 0;
    double t = 0.0;
  };
  template <size_t count>
  static Place place_of(double size, const double (&log2_sizes)[count]);

  SimdLevel level_;
  Place row_, code_, dim_;
};

}  // namespace vqgan_fast
