#include "kernels/cpu/nearest_code_cost.h"

#include <algorithm>
#include <cmath>

namespace vqgan_fast {

SearchCost::SearchCost(SimdLevel level, int64_t num_rows, int64_t num_codes, int64_t dim)
    : level_(level),
      num_rows_(static_cast<double>(num_rows)),
      num_codes_(static_cast<double>(num_codes)),
      dim_(static_cast<double>(dim)) {}

double SearchCost::search(SearchWay way) const { return static_cast<double>(way); }

double SearchCost::pack(SearchWay way) const {return static_cast<double>(way); }

double SearchCost::hash() const { return 100.0 + 0.2 * num_codes_ * dim_; }

}  // namespace vqgan_fast
