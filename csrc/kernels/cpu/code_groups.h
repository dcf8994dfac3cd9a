// The rows of each code: what sums by code are taken over.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/cpu/parallel.h"
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
  // Many rows are counted and put in order by several threads, each a part of them. Then how many
  // rows of each code a part has stands here, part by part.
  int64_t num_parts = 1;
  std::unique_ptr<int64_t[]> part_counts;

  int64_t count(int64_t g) const { return first[g + 1] - first[g]; }
  int64_t first_row(int64_t part) const { return num_rows * part / num_parts; }
  int64_t* counts_of(int64_t part) const {
    return num_parts == 1 ? counts : part_counts.get() + part * num_codes;
  }
};

// The first row whose index is not in [0, num_codes), or -1.
int64_t find_bad_index(const int64_t* indices, int64_t num_rows, int64_t num_codes);

// Fills `counts` (num_codes). Every index must be in [0, num_codes).
CodeGroups group_codes(const int64_t* indices, int64_t num_rows, int64_t num_codes, int64_t* counts,
                       const Parallel& parallel);

// Where the rows of z begin, in elements behind its data: those of group g stand at first[g] ..
// first[g + 1] - 1, in the order of the rows. Some more stand behind the last, which may be asked
// for but not used. To be had once: it takes the parts' counts. `counts` changes meanwhile.
std::unique_ptr<int64_t[]> offsets_of_groups(const CodeGroups& groups, const Rows& z,
                                             const Parallel& parallel);

// The group of each row. `counts` changes meanwhile.
std::unique_ptr<int32_t[]> group_of_rows(const CodeGroups& groups, const Parallel& parallel);

}  // namespace vqgan_fast
