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

// Rows to search, ascending: those listed, or where there is no list the first `count` of all.
struct RowList {
  int64_t count = 0;
  const int64_t* listed = nullptr;

  int64_t operator[](int64_t i) const { return listed != nullptr ? listed[i] : i; }
};

// Indices and distances of the rows that a pass decides are written, and handed to args.take_rows.
// Of a row that it leaves open args.indices holds a code near it, or -1.

// Decides the rows to which the screen leaves few codes; returns the others. Of a screen that is
// not the last one rows are also left where another one would be faster.
std::vector<int64_t> screen_rows(const NearestCodeArgs& args, SimdLevel level,
                                 const CodeScreen& screen, bool is_last, const RowList& rows,
                                 const Parallel& parallel);

// Decides all of the rows, by DirectSearch. Of listed rows args.indices tells a code near them, as
// screen_rows left it.
void search_rows(const NearestCodeArgs& args, SimdLevel level, const RowList& rows,
                 const Parallel& parallel);

}  // namespace vqgan_fast
