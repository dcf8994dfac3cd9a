// The passes of nearest_code over its rows: a screen decides most of them, the direct search the
// rest.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/nearest_code.h"
#include "kernels/cpu/nearest_code_screen.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

// `rows` are in ascending order. Indices and distances of those that a pass decides are written,
// and handed to args.take_rows. Of a row that is not decided args.indices holds a code near it, or
// -1.

// Decides the rows to which the screen leaves few codes; returns the others.
std::vector<int64_t> screen_rows(const NearestCodeArgs& args, SimdLevel level,
                                 const CodeScreen& screen, const std::vector<int64_t>& rows,
                                 const Parallel& parallel);

// Decides all of the rows, by DirectSearch.
void search_rows(const NearestCodeArgs& args, SimdLevel level, const std::vector<int64_t>& rows,
                 const Parallel& parallel);

}  // namespace vqgan_fast
