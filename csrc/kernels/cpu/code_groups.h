// The rows of each code: what sums by code are taken over.
#pragma once

#include <cstdint>
#include <memory>

namespace vqgan_fast {

// The codes that have rows, in ascending order, and their rows, each code's in ascending order.
struct CodeGroups {
  int64_t num_codes = 0;
  int64_t num_rows = 0;
  int64_t num_groups = 0;
  std::unique_ptr<int64_t[]> codes;
  // Group g has the rows rows[first[g]] .. rows[first[g + 1] - 1].
  std::unique_ptr<int64_t[]> first;
  // With some more behind the last, which are asked for but not used.
  std::unique_ptr<int64_t[]> rows;

  int64_t count(int64_t g) const { return first[g + 1] - first[g]; }
};

// The first row whose index is not in [0, num_codes), or -1.
int64_t find_bad_index(const int64_t* indices, int64_t num_rows, int64_t num_codes);

// counts[k] = the number of rows of code k. Every index must be in [0, num_codes).
CodeGroups group_codes(const int64_t* indices, int64_t num_rows, int64_t num_codes,
                       int64_t* counts);

}  // namespace vqgan_fast
