#include "kernels/cpu/code_groups.h"

#include <algorithm>

#include "kernels/cpu/code_sums.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {
namespace {

std::unique_ptr<int64_t[]> uninitialised(int64_t size) {
  return std::unique_ptr<int64_t[]>(new int64_t[size]);
}

void restore_counts(const CodeGroups& groups) {
  for (int64_t g = 0; g < groups.num_groups; ++g) groups.counts[groups.codes[g]] = groups.count(g);
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
  groups.indices = indices;
  groups.counts = counts;
  groups.num_codes = num_codes;
  groups.num_rows = num_rows;
  std::fill_n(counts, num_codes, 0);
  for (int64_t n = 0; n < num_rows; ++n) ++counts[indices[n]];
  const int64_t most_groups = std::min(num_rows, num_codes);
  groups.codes = uninitialised(most_groups);
  groups.first = uninitialised(most_groups + 1);
  groups.num_groups = code_sums(simd_level())
                          .list_groups(counts, num_codes, groups.codes.get(), groups.first.get());
  groups.first[groups.num_groups] = num_rows;
  return groups;
}

std::unique_ptr<int64_t[]> offsets_of_groups(const CodeGroups& groups, const Rows& z) {
  auto offsets = uninitialised(groups.num_rows + CodeSums::kRowsAhead);
  // A count is for a while the place of the code's next row.
  int64_t* next = groups.counts;
  for (int64_t g = 0; g < groups.num_groups; ++g) next[groups.codes[g]] = groups.first[g];
  for (int64_t n = 0; n < groups.num_rows;) {
    const int64_t end = std::min(n + z.inner_rows, groups.num_rows);
    for (int64_t offset = z.offset(n); n < end; ++n, offset += z.inner_stride) {
      offsets[next[groups.indices[n]]++] = offset;
    }
  }
  std::fill_n(offsets.get() + groups.num_rows, CodeSums::kRowsAhead, 0);
  restore_counts(groups);
  return offsets;
}

std::unique_ptr<int32_t[]> group_of_rows(const CodeGroups& groups) {
  std::unique_ptr<int32_t[]> group(new int32_t[groups.num_rows]);
  // A count is for a while the code's group.
  int64_t* group_of_code = groups.counts;
  for (int64_t g = 0; g < groups.num_groups; ++g) group_of_code[groups.codes[g]] = g;
  for (int64_t n = 0; n < groups.num_rows; ++n) {
    group[n] = static_cast<int32_t>(group_of_code[groups.indices[n]]);
  }
  restore_counts(groups);
  return group;
}

}  // namespace vqgan_fast
