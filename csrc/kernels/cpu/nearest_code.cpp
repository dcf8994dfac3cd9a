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
  std::fill_n(args.indices, args.num_rows, -1);
  std::vector<int64_t> open(args.num_rows);
  std::iota(open.begin(), open.end(), 0);

  SearchPlan plan(args, parallel);
  while (const auto screen = plan.next_screen(static_cast<int64_t>(open.size()))) {
    open = screen_rows(args, plan.level(), *screen, open, parallel);
  }
  search_rows(args, plan.level(), open, parallel);
}

}  // namespace vqgan_fast
