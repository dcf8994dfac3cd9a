// What each way of a search is expected to cost.
#pragma once

#include <cstdint>

#include "kernels/cpu/nearest_code_correction.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

// Times in nanoseconds of one thread of the machine that the constants were fitted on; only their
// ratios matter. benchmarks/fit_search_cost.py fits them anew.
class SearchCost {
 public:
  SearchCost(SimdLevel level, int64_t num_rows, int64_t num_codes, int64_t dim);

  // Of searching all rows, given the packed codebook.
  double search(SearchWay way) const;
  // Of packing the codebook before.
  double pack_and_search(SearchWay way) const;
  // Of hashing it.
  double hash() const;
  // Of finding clusters of codes, packing each and searching all rows.
  double cluster_and_search() const;

 private:
  // What the formulas say.
  double search_formula(SearchWay way) const;
  double pack_formula(SearchWay way) const;

  SimdLevel level_;
  double num_rows_, num_codes_, dim_;
  SearchCorrection correction_;
};

}  // namespace vqgan_fast
