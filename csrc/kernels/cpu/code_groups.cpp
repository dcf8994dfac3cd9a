#include "kernels/cpu/code_groups.h"

#include <algorithm>

#include "kernels/cpu/code_sums.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {
namespace {

std::unique_ptr<int64_t[]> uninitialised(int64_t size) {
  return std::unique_ptr<int64_t[]>(new int64_t[size]);
}

}  // namespace

int64_t find_bad_index(const int64_t* indices, int64_t num_rows, int64_t num_codes) {
  // A loop without an exit is one that the compiler vectorises.
  constexpr int64_t kBlock = 256;
  for (int64_t begin = 0; begin < num_rows; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, num_rows);
    // The sign of the first term is set where an index is negative, that of the other where it is
    // too large.
    uint64_t bad = 0;
    for (int64_t n = begin; n < end; ++n) {
      const auto index = static_cast<uint64_t>(indices[n]);
      bad |= index | (static_cast<uint64_t>(num_codes - 1) - index);
    }
    if (bad >> 63 == 0) continue;
    for (int64_t n = begin; n < end; ++n) {
      if (indices[n] < 0 || indices[n] >= num_codes) return n;
    }
  }
  return -1;
}

CodeGroups group_codes(const int64_t* indices, int64_t num_rows, int64_t num_codes,
                       int64_t* counts) {
  CodeGroups groups;
  groups.num_codes = num_codes;
  groups.num_rows = num_rows;
  std::fill_n(counts, num_codes, 0);
  for (int64_t n = 0; n < num_rows; ++n) ++counts[indices[n]];
  const int64_t most_groups = std::min(num_rows, num_codes);
  groups.codes = uninitialised(most_groups);
  groups.first = uninitialised(most_groups + 1);
  groups.rows = uninitialised(num_rows + CodeSums::kRowsAhead);
  const int64_t* codes = groups.codes.get();
  int64_t* first = groups.first.get();
  groups.num_groups =
      code_sums(simd_level()).list_groups(counts, num_codes, groups.codes.get(), first);
  first[groups.num_groups] = num_rows;
  // A count is for a while the place of the code's next row.
  for (int64_t g = 0; g < groups.num_groups; ++g) counts[codes[g]] = first[g];
  for (int64_t n = 0; n < num_rows; ++n) groups.rows[counts[indices[n]]++] = n;
  for (int64_t g = 0; g < groups.num_groups; ++g) counts[codes[g]] = groups.count(g);
  std::fill_n(groups.rows.get() + num_rows, CodeSums::kRowsAhead, 0);
  return groups;
}

}  // namespace vqgan_fast
