#include "kernels/cpu/nearest_code_plan.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu/code_source.h"
#include "kernels/cpu/nearest_code_cost.h"
#include "kernels/cpu/nearest_code_counters.h"
#include "kernels/cpu/screen_distinct.h"

namespace vqgan_fast {
namespace {

// Fewer rows than this are not worth a second screen.
constexpr int64_t kLeastRowsAgain = 96;
// Clusters are looked for where one in so many rows is open.
constexpr int64_t kShareForClusters = 32;

// What VQGAN_FAST_SCREEN allows.
struct Allowed {
  std::vector<SearchWay> ways;
  bool clusters;
};
Allowed allowed_ways() {
  const std::vector<SearchWay> all = {SearchWay::kDirect, SearchWay::kFp32, SearchWay::kInt16,
                                      SearchWay::kInt8, SearchWay::kBoxes};
  const char* name = std::getenv("VQGAN_FAST_SCREEN");
  if (name == nullptr || *name == '\0' || std::string(name) == "auto") return {all, true};
  if (std::string(name) == "clusters") return {{}, true};
  const char* const names[] = {"direct", "fp32", "int16", "int8", "boxes"};
  for (size_t i = 0; i < all.size(); ++i) {
    if (std::string(name) == names[i]) return {{all[i]}, false};
  }
  throw std::runtime_error(
      "VQGAN_FAST_SCREEN must be auto, direct, fp32, int16, int8, boxes or clusters, got " +
      std::string(name));
}

ScreenKind kind_of(SearchWay way) {
  if (way == SearchWay::kInt16) return ScreenKind::kInt16;
  if (way == SearchWay::kInt8) return ScreenKind::kInt8;
  return way == SearchWay::kBoxes ? ScreenKind::kBoxes : ScreenKind::kFp32;
}

MakeScreen maker_of(ScreenKind kind) {
  switch (kind) {
    case ScreenKind::kFp32:
      return make_screen_fp32;
    case ScreenKind::kInt16:
      return make_screen_int16;
    case ScreenKind::kInt8:
      return make_screen_int8;
    case ScreenKind::kBoxes:
      return make_screen_boxes;
    case ScreenKind::kClusters:
      break;
  }
  return make_screen_clusters;
}

void count_call(SearchWay way) {
  NearestCodeCounters& counters = nearest_code_counters();
  std::atomic<int64_t>* const calls[] = {&counters.calls_direct, &counters.calls_fp32,
                                         &counters.calls_int16, &counters.calls_int8,
                                         &counters.calls_boxes};
  ++*calls[static_cast<int>(way)];
}

}  // namespace

SearchPlan::SearchPlan(const NearestCodeArgs& args, const Parallel& parallel)
    : args_(args), parallel_(parallel), level_(simd_level()) {
  Allowed allowed = allowed_ways();
  ways_ = std::move(allowed.ways);
  clusters_ = allowed.clusters;
  if (screen_cache_limit() > 0 && is_hash_worth()) {
    tree_ = std::make_unique<ContentTree>(args.codebook, args.num_codes, args.dim, parallel);
    codebook_ = {tree_->hash(), args.codebook.dtype, args.num_codes, args.dim};
    known_ = meet_codebook(codebook_);
  }
}

std::shared_ptr<const CodeScreen> SearchPlan::next_screen(int64_t num_open) {
  if (!first_ && num_open < kLeastRowsAgain) return nullptr;
  const bool many = num_open >= args_.num_rows / kShareForClusters;
  if (clusters_ && (first_ ? ways_.empty() : products_ && many && clusters_pay(num_open))) {
    clusters_ = false;
    if (auto screen = pack(ScreenKind::kClusters)) {
      ++nearest_code_counters().calls_clusters;
      first_ = false;
      return screen;
    }
  }
  while (!ways_.empty()) {
    const SearchWay way = fastest(num_open);
    if (way == SearchWay::kDirect) break;
    ways_.erase(std::find(ways_.begin(), ways_.end(), way));
    const std::shared_ptr<const CodeScreen> screen = pack(kind_of(way));
    if (screen == nullptr) continue;
    if (first_) count_call(way);
    first_ = false;
    products_ = way != SearchWay::kBoxes;
    // What fp32 or int16 products leave open another such screen would leave open as well.
    if (way == SearchWay::kFp32 || way == SearchWay::kInt16) ways_.clear();
    return screen;
  }
  if (first_) count_call(SearchWay::kDirect);
  first_ = false;
  ways_.clear();
  return nullptr;
}

// Whether a packed codebook would save more than it costs to ask for one. A way that is forced has
// nothing else to do.
bool SearchPlan::is_hash_worth() const {
  if (ways_.empty()) return true;
  if (ways_.size() == 1) return ways_[0] != SearchWay::kDirect;
  const SearchCost cost(level_, args_.num_rows, args_.num_codes, args_.dim);
  double packed = cost.search(ways_[0]);
  for (const SearchWay way : ways_) packed = std::min(packed, cost.search(way));
  return cost.search(SearchWay::kDirect) > packed + cost.hash();
}

// Whether the rest would take longer by the direct search, where codes that one screen cannot tell
// apart mostly end, after a finer screen too. What is found of a codebook that comes again is kept.
bool SearchPlan::clusters_pay(int64_t num_rows) const {
  const SearchCost cost(level_, num_rows, args_.num_codes, args_.dim);
  return known_ || cost.search(SearchWay::kDirect) > cost.cluster_and_search();
}

bool SearchPlan::is_last_screen() const {
  return !clusters_ && std::all_of(ways_.begin(), ways_.end(),
                                   [](SearchWay way) { return way == SearchWay::kDirect; });
}

// Of the ways that are left.
SearchWay SearchPlan::fastest(int64_t num_rows) const {
  const SearchCost cost(level_, num_rows, args_.num_codes, args_.dim);
  // A codebook that comes again will come more often: packing it pays in the long run.
  const auto total = [&](SearchWay way) {
    return known_ ? cost.search(way) : cost.pack_and_search(way);
  };
  return *std::min_element(ways_.begin(), ways_.end(),
                           [&](SearchWay a, SearchWay b) { return total(a) < total(b); });
}

std::shared_ptr<const CodeScreen> SearchPlan::pack(ScreenKind kind) {
  const ScreenKey key{codebook_, kind, level_};
  if (known_) {
    if (const auto screen = find_screen(key)) {
      if (first_ && *screen) ++nearest_code_counters().calls_cached;
      return *screen;
    }
  }
  const MakeScreen make = maker_of(kind);
  CodeSource source{args_.codebook, args_.num_codes, args_.dim};
  if (!known_) return make_screen_distinct(make, source, level_, parallel_);
  // What is kept must be packed from what was hashed, even if another thread writes to the codebook
  // meanwhile.
  ContentCheck check{*tree_};
  source.check = &check;
  auto screen = make_screen_distinct(make, source, level_, parallel_);
  if (!check.changed) keep_screen(key, screen);
  return screen;
}

}  // namespace vqgan_fast
