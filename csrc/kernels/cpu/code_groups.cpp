#include "kernels/cpu/code_groups.h"

#include <algorithm>

#include "kernels/cpu/code_sums.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {
namespace {

std::unique_ptr<int64_t[]> uninitialised(int64_t size) {
  return std::unique_ptr<int64_t[]>(new int64_t[size]);
}

// A bit for each code that has rows.
std::vector<UsedCodes> used_codes(const int64_t* indices, int64_t num_rows, int64_t num_codes) {
  std::vector<UsedCodes> codes(num_codes / 64 + 1);
  for (int64_t n = 0; n < num_rows; ++n) {
    const auto code = static_cast<uint64_t>(indices[n]);
    codes[code / 64].used |= uint64_t{1} << code % 64;
  }
  return codes;
}

}  // namespace

int64_t find_bad_index(const int64_t* indices, int64_t num_rows, int64_t num_codes) {
  // A loop without an exit is one that the compiler vectorises.
  constexpr int64_t kBlock = 256;
  for (int64_t begin = 0; begin < num_rows; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, num_rows);
    bool bad = false;
    for (int64_t n = begin; n < end; ++n) {
      bad |= static_cast<uint64_t>(indices[n]) >= static_cast<uint64_t>(num_codes);
    }
    if (!bad) continue;
    for (int64_t n = begin; n < end; ++n) {
      if (indices[n] < 0 || indices[n] >= num_codes) return n;
    }
  }
  return -1;
}

CodeGroups group_codes(const int64_t* indices, int64_t num_rows, int64_t num_codes) {
  CodeGroups groups;
  groups.num_codes = num_codes;
  groups.num_rows = num_rows;
  std::vector<UsedCodes> used = used_codes(indices, num_rows, num_codes);
  groups.codes = uninitialised(std::min(num_rows, num_codes));
  int64_t* code = groups.codes.get();
  for (size_t i = 0; i < used.size(); ++i) {
    used[i].before = code - groups.codes.get();
    for (uint64_t bits = used[i].used; bits != 0; bits &= bits - 1) {
      *code++ = static_cast<int64_t>(i) * 64 + __builtin_ctzll(bits);
    }
  }
  groups.num_groups = code - groups.codes.get();
  // first[g + 1] is the number of rows of group g, then where they begin, and when they are all in
  // their places, where they end.
  const auto group = uninitialised(num_rows);
  groups.first.assign(groups.num_groups + 2, 0);
  int64_t* next = groups.first.data() + 1;
  code_sums(simd_level()).find_groups(used.data(), indices, num_rows, group.get(), next + 1);
  for (int64_t g = 0; g < groups.num_groups; ++g) next[g + 1] += next[g];
  groups.rows = uninitialised(num_rows + CodeSums::kRowsAhead);
  std::fill_n(groups.rows.get() + num_rows, CodeSums::kRowsAhead, 0);
  for (int64_t n = 0; n < num_rows; ++n) groups.rows[next[group[n]]++] = n;
  groups.first.pop_back();
  return groups;
}

}  // namespace vqgan_fast
