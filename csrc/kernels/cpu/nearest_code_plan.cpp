#include "kernels/cpu/nearest_code_plan.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cpu/nearest_code_cost.h"
#include "kernels/cpu/nearest_code_counters.h"

namespace vqgan_fast {
namespace {

// A search that takes less than this many times the hashing of its codebook goes directly: what a
// packed codebook could save is not worth asking for one.
constexpr double kHashWorth = 2.0;

// The ways that VQGAN_FAST_SCREEN allows.
std::vector<SearchWay> allowed_ways() {
  const std::vector<SearchWay> all = {SearchWay::kDirect, SearchWay::kFp32, SearchWay::kInt16,
                                      SearchWay::kBoxes};
  const char* name = std::getenv("VQGAN_FAST_SCREEN");
  if (name == nullptr || *name == '\0' || std::string(name) == "auto") return all;
  const char* const names[] = {"direct", "fp32", "int16", "boxes"};
  for (size_t i = 0; i < all.size(); ++i) {
    if (std::string(name) == names[i]) return {all[i]};
  }
  throw std::runtime_error(
      std::string("VQGAN_FAST_SCREEN must be auto, direct, fp32, int16 or boxes, got ") + name);
}

ScreenKind kind_of(SearchWay way) {
  if (way == SearchWay::kInt16) return ScreenKind::kInt16;
  return way == SearchWay::kBoxes ? ScreenKind::kBoxes : ScreenKind::kFp32;
}

std::shared_ptr<const CodeScreen> make_screen(SearchWay way, const NearestCodeArgs& args,
                                              SimdLevel level, const Parallel& parallel) {
  const auto make = way == SearchWay::kInt16   ? make_screen_int16
                    : way == SearchWay::kBoxes ? make_screen_boxes
                                               : make_screen_fp32;
  return make(args.codebook, args.num_codes, args.dim, level, parallel);
}

void count_call(SearchWay way) {
  NearestCodeCounters& counters = nearest_code_counters();
  std::atomic<int64_t>* const calls[] = {&counters.calls_direct, &counters.calls_fp32,
                                         &counters.calls_int16, &counters.calls_boxes};
  ++*calls[static_cast<int>(way)];
}

}  // namespace

SearchPlan plan_search(const NearestCodeArgs& args, const Parallel& parallel) {
  SearchPlan plan;
  plan.level = simd_level();
  std::vector<SearchWay> ways = allowed_ways();
  const SearchCost cost(plan.level, args.num_rows, args.num_codes, args.dim);
  const bool use_cache =
      screen_cache_limit() > 0 &&
      (ways.size() == 1 ? ways[0] != SearchWay::kDirect
                        : cost.search(SearchWay::kDirect) > kHashWorth * cost.hash());

  CodebookKey codebook;
  bool known = false;
  const auto hash = [&] { return hash_content(args.codebook, args.num_codes, args.dim, parallel); };
  if (use_cache) {
    codebook = {hash(), args.codebook.dtype, args.num_codes, args.dim};
    known = meet_codebook(codebook);
  }
  // A codebook that comes again will come more often: packing it pays in the long run.
  const auto total = [&](SearchWay way) {
    return cost.search(way) + (known ? 0.0 : cost.pack(way));
  };
  std::stable_sort(ways.begin(), ways.end(),
                   [&](SearchWay a, SearchWay b) { return total(a) < total(b); });

  for (const SearchWay way : ways) {
    if (way == SearchWay::kDirect) break;
    const ScreenKey key{codebook, kind_of(way), plan.level};
    plan.screen = known ? find_screen(key) : nullptr;
    if (plan.screen) {
      ++nearest_code_counters().calls_cached;
    } else {
      plan.screen = make_screen(way, args, plan.level, parallel);
      if (plan.screen && known && hash() == codebook.hash) keep_screen(key, plan.screen);
    }
    if (plan.screen) {
      count_call(way);
      return plan;
    }
  }
  count_call(SearchWay::kDirect);
  return plan;
}

}  // namespace vqgan_fast
