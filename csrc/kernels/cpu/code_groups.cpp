#include "kernels/cpu/code_groups.h"

#include <algorithm>

#include "kernels/cpu/code_sums.h"
#include "kernels/cpu/row_tiles.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {
namespace {

// Rows that are worth another thread: to begin its work takes as long as to count some thousand.
constexpr int64_t kLeastRows = 8 << 10;
// Codes for each row of a part: each part clears and adds up counts of all codes.
constexpr int64_t kMostCodesOfRow = 2;

std::unique_ptr<int64_t[]> uninitialised(int64_t size) {
  return std::unique_ptr<int64_t[]>(new int64_t[size]);
}

void count_part(const CodeGroups& groups, int64_t part) {
  int64_t* counts = groups.counts_of(part);
  std::fill_n(counts, groups.num_codes, 0);
  const int64_t end = groups.first_row(part + 1);
  for (int64_t n = groups.first_row(part); n < end; ++n) ++counts[groups.indices[n]];
}

void add_up_parts(const CodeGroups& groups, const Parallel& parallel) {
  const int64_t grain = std::max<int64_t>(1, kLeastRows / groups.num_parts);
  parallel.run(0, groups.num_codes, grain, [&](int64_t begin, int64_t end) {
    std::copy(groups.counts_of(0) + begin, groups.counts_of(0) + end, groups.counts + begin);
    for (int64_t part = 1; part < groups.num_parts; ++part) {
      const int64_t* counts = groups.counts_of(part);
      for (int64_t k = begin; k < end; ++k) groups.counts[k] += counts[k];
    }
  });
}

// Of groups begin .. end - 1: where each part's first row of the code belongs, in place of how many
// the part has.
void counts_to_places(const CodeGroups& groups, int64_t begin, int64_t end) {
  for (int64_t g = begin; g < end; ++g) {
    int64_t place = groups.first[g];
    for (int64_t part = 0; part < groups.num_parts; ++part) {
      int64_t* count = groups.counts_of(part) + groups.codes[g];
      const int64_t rows = *count;
      *count = place;
      place += rows;
    }
  }
}

void place_part(const CodeGroups& groups, const Rows& z, int64_t part, int64_t* offsets) {
  int64_t* next = groups.counts_of(part);
  const int64_t end = groups.first_row(part + 1);
  for (int64_t n = groups.first_row(part); n < end;) {
    const int64_t run_end = std::min(n + rows_in_run(z, n), end);
    for (int64_t offset = z.offset(n); n < run_end; ++n, offset += z.inner_stride) {
      offsets[next[groups.indices[n]]++] = offset;
    }
  }
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

CodeGroups group_codes(const int64_t* indices, int64_t num_rows, int64_t num_codes, int64_t* counts,
                       const Parallel& parallel) {
  CodeGroups groups;
  groups.indices = indices;
  groups.counts = counts;
  groups.num_codes = num_codes;
  groups.num_rows = num_rows;
  const int64_t least_rows = std::max(kLeastRows, num_codes / kMostCodesOfRow);
  groups.num_parts = std::clamp<int64_t>(num_rows / least_rows, 1, parallel.num_threads);
  if (groups.num_parts > 1) groups.part_counts = uninitialised(groups.num_parts * num_codes);
  parallel.run(0, groups.num_parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) count_part(groups, part);
  });
  if (groups.num_parts > 1) add_up_parts(groups, parallel);
  const int64_t most_groups = std::min(num_rows, num_codes);
  groups.codes = uninitialised(most_groups);
  groups.first = uninitialised(most_groups + 1);
  groups.num_groups = code_sums(simd_level())
                          .list_groups(counts, num_codes, groups.codes.get(), groups.first.get());
  groups.first[groups.num_groups] = num_rows;
  return groups;
}

std::unique_ptr<int64_t[]> offsets_of_groups(const CodeGroups& groups, const Rows& z,
                                             const Parallel& parallel) {
  auto offsets = uninitialised(groups.num_rows + CodeSums::kRowsAhead);
  const int64_t grain = std::max<int64_t>(1, kLeastRows / groups.num_parts);
  parallel.run(0, groups.num_groups, grain,
               [&](int64_t begin, int64_t end) { counts_to_places(groups, begin, end); });
  parallel.run(0, groups.num_parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) place_part(groups, z, part, offsets.get());
  });
  std::fill_n(offsets.get() + groups.num_rows, CodeSums::kRowsAhead, 0);
  if (groups.num_parts == 1) restore_counts(groups);
  return offsets;
}

std::unique_ptr<int32_t[]> group_of_rows(const CodeGroups& groups, const Parallel& parallel) {
  std::unique_ptr<int32_t[]> group(new int32_t[groups.num_rows]);
  // A count is for a while the code's group.
  int64_t* group_of_code = groups.counts;
  for (int64_t g = 0; g < groups.num_groups; ++g) group_of_code[groups.codes[g]] = g;
  parallel.run(0, groups.num_rows, kLeastRows, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      group[n] = static_cast<int32_t>(group_of_code[groups.indices[n]]);
    }
  });
  restore_counts(groups);
  return group;
}

}  // namespace vqgan_fast
