// The rows of each code: what sums by code are taken over.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/cpu/rows.h"

namespace vqgan_fast {

// The codes that have rows, in ascending order.
struct CodeGroups {
  const int64_t* indices = nullptr;
  // counts[k] = the number of rows of code k.
  int64_t* counts = nullptr;
  int64_t num_codes = 0;
  int64_t num_rows = 0;
  int64_t num_groups = 0;
  std::unique_ptr<int64_t[]> codes;
  // first[g] = how many rows the codes before codes[g] have.
  std::unique_ptr<int64_t[]> first;

  int64_t count(int64_t g) const { return first[g + 1] - first[g]; }
};

// The first row whose index is not in [0, num_codes), or -1.
int64_t find_bad_index(const int64_t* indices, int64_t num_rows, int64_t num_codes);

// Fills `counts` (num_codes). Every index must be in [0, num_codes).
CodeGroups group_codes(const int64_t* indices, int64_t num_rows, int64_t num_codes,
                       int64_t* counts);

// Where the rows of z begin, in elements behind its data: those of group g stand at first[g] ..
// first[g + 1] - 1, in the order of the rows. Some more stand behind the last, which may be asked
// for but not used. `counts` changes meanwhile.
std::unique_ptr<int64_t[]> offsets_of_groups(const CodeGroups& groups, const Rows& z);

// The group of each row. `counts` changes meanwhile.
std::unique_ptr<int32_t[]> group_of_rows(const CodeGroups& groups);

}  // namespace vqgan_fast
