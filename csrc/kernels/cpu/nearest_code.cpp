#include "kernels/cpu/nearest_code.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/nearest_code_plan.h"
#include "kernels/cpu/nearest_code_search.h"

namespace vqgan_fast {

void nearest_code(const NearestCodeArgs& args, const Parallel& parallel) {
  if (args.num_rows == 0) return;
  const DefaultFloatMode float_mode;
  const SearchPlan plan = plan_search(args, parallel);
  std::vector<int64_t> open;
  if (plan.screen) {
    open = screen_rows(args, plan, parallel);
  } else {
    std::fill_n(args.indices, args.num_rows, -1);
    open.resize(args.num_rows);
    std::iota(open.begin(), open.end(), 0);
  }
  search_open_rows(args, plan, open, parallel);
}

}  // namespace vqgan_fast
