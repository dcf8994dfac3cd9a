#include "kernels/cpu/nearest_code.h"

#include <cstdint>
#include <vector>

#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/nearest_code_plan.h"
#include "kernels/cpu/nearest_code_search.h"

namespace vqgan_fast {

void nearest_code(const NearestCodeArgs& args, const Parallel& parallel) {
  if (args.num_rows == 0) return;
  const DefaultFloatMode float_mode;
  SearchPlan plan(args, parallel);
  RowList rows{args.num_rows};
  std::vector<int64_t> open;
  while (const auto screen = plan.next_screen(rows.count)) {
    open = screen_rows(args, plan.level(), *screen, plan.is_last_screen(), rows, parallel);
    rows = {static_cast<int64_t>(open.size()), open.data()};
  }
  search_rows(args, plan.level(), rows, parallel);
}

}  // namespace vqgan_fast
