// Every way of nearest_code at the levels with AVX-512 or AVX-VNNI, against the definition.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <string>
#include <utility>

#include "../search_problems.h"
#include "checks.h"
#include "kernels/cpu/nearest_code_counters.h"

namespace vqgan_fast {
namespace {

struct Way {
  const char* name;
  SimdLevel level;
  MakeScreen make;  // null: there is no screen
};
// Of the levels with VNNI and AMX the int16 and int8 screens alone have kernels; clusters are
// screened by int16 or fp32.
constexpr Way kWays[] = {
    {"int16", SimdLevel::kAvxVnni, make_screen_int16},
    {"int8", SimdLevel::kAvxVnni, make_screen_int8},
    {"direct", SimdLevel::kAvx512, nullptr},
    {"fp32", SimdLevel::kAvx512, make_screen_fp32},
    {"int16", SimdLevel::kAvx512, make_screen_int16},
    {"int16", SimdLevel::kAvx512Vnni, make_screen_int16},
    {"int16", SimdLevel::kAmx, make_screen_int16},
    {"int8", SimdLevel::kAvx512Vnni, make_screen_int8},
    {"boxes", SimdLevel::kAvx512, make_screen_boxes},
    {"clusters", SimdLevel::kAmx, make_screen_clusters},
};
constexpr DType kDTypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64};

// Two threads, one after the other.
Parallel two_threads() {
  Parallel parallel;
  parallel.num_threads = 2;
  parallel.run = [](int64_t begin, int64_t end, int64_t grain, const RangeBody& body) {
    const int64_t middle = std::min(end, begin + std::max(grain, (end - begin + 1) / 2));
    if (begin < middle) body(begin, middle);
    if (middle < end) body(middle, end);
  };
  return parallel;
}

// Rows of ordinary data that passed each way's screen, and those which it did not leave open.
int64_t rows_screened[std::size(kWays)], rows_decided[std::size(kWays)];

int64_t decided() {
  const NearestCodeCounters& counters = nearest_code_counters();
  return counters.rows_screen + counters.rows_candidates;
}

void check_ways(const Problem& p, const std::string& data, int64_t few_rows) {
  for (size_t i = 0; i < std::size(kWays); ++i) {
    const Way& way = kWays[i];
    const std::string what = force(way.level) + ", " + way.name + ", " + data;
    setenv("VQGAN_FAST_SCREEN", way.name, 1);
    const int64_t before = decided();
    check_nearest_code(p, what);
    const int64_t rows = decided() - before;
    check_nearest_code(p, what + ", few rows", few_rows, two_threads());
    if (way.make == nullptr || !check_screen(p, way.level, way.make, what + ", screen")) continue;
    if (data != "gaussian") continue;
    rows_screened[i] += kRows;
    rows_decided[i] += rows;
  }
}

// Every row may be left open, and the result is still right: a broken screen would only be slow.
void check_that_screens_decide() {
  for (size_t i = 0; i < std::size(kWays); ++i) {
    if (kWays[i].make == nullptr) continue;
    std::printf("%s, %s: %lld of %lld rows decided\n", simd_level_name(kWays[i].level),
                kWays[i].name, static_cast<long long>(rows_decided[i]),
                static_cast<long long>(rows_screened[i]));
    if (rows_decided[i] < 0.9 * static_cast<double>(rows_screened[i])) ++failures;
  }
}

// Numbers of codes that int8 keeps have 32 bits; nothing is read before that is seen.
void check_that_codes_are_numbered() {
  const int64_t too_many = int64_t{1} << 31;
  const CodeSource source{contiguous_rows(nullptr, DType::kFloat32, too_many, 1), too_many, 1};
  if (make_screen_int8(source, SimdLevel::kAvx512Vnni, Parallel()) == nullptr) return;
  std::printf("int8 takes more codes than it can number\n");
  ++failures;
}

}  // namespace
}  // namespace vqgan_fast

int check_search() {
  using namespace vqgan_fast;
  int64_t problems = 0;
  const auto check = [&](int64_t num_codes, int64_t dim, const auto& data_and_change) {
    // Steps that have no factor in common with the loops: every type and number meets every size.
    const DType dtype = kDTypes[problems / 3 % 4];
    const int64_t few_rows = 1 + problems % 13;
    const auto& [data, change] = data_and_change;
    check_ways(make_problem(num_codes, dim, dtype, change), data, few_rows);
    ++problems;
  };
  for (const auto& data : kCases) {
    for (const int64_t dim : {1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 16, 31, 33, 40, 64, 65, 130, 256}) {
      check(dim < 100 ? 300 : 65, dim, data);
      check(dim % 2 == 0 ? 1 : 17, dim, data);
    }
    // Enough codes for two levels of boxes, wide panels, and more panels than int16 has tags.
    for (const int64_t dim : {1, 2, 3, 4, 8, 16}) check(dim == 4 ? 9000 : 4500, dim, data);
    check(8300, 44, data);  // more tiles than tags
  }
  check_that_screens_decide();
  check_that_codes_are_numbered();
  check_hashes_of_signs();
  check_hashes_of_sizes();
  const NearestCodeCounters& counters = nearest_code_counters();
  std::printf(
      "searches: %lld direct, %lld fp32, %lld int16, %lld int8, %lld boxes, %lld clusters\n",
      static_cast<long long>(counters.calls_direct), static_cast<long long>(counters.calls_fp32),
      static_cast<long long>(counters.calls_int16), static_cast<long long>(counters.calls_int8),
      static_cast<long long>(counters.calls_boxes),
      static_cast<long long>(counters.calls_clusters));
  return failures;
}
