// The two passes of nearest_code over the rows: a screen decides most of them, the direct search the
// rest.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/nearest_code.h"
#include "kernels/cpu/nearest_code_plan.h"
#include "kernels/cpu/parallel.h"

namespace vqgan_fast {

// Both passes write indices and distances of the rows that they decide, and hand them to
// args.take_rows. An open row's index is that of a code near it, or -1.

// Decides every row to which plan.screen leaves few codes; returns the others, ascending.
std::vector<int64_t> screen_rows(const NearestCodeArgs& args, const SearchPlan& plan,
                                 const Parallel& parallel);

// Decides open rows.
void search_open_rows(const NearestCodeArgs& args, const SearchPlan& plan,
                      const std::vector<int64_t>& open, const Parallel& parallel);

}  // namespace vqgan_fast
