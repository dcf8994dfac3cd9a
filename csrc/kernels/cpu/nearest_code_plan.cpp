#include "kernels/cpu/nearest_code_plan.h"

#include <array>
#include <cstdlib>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cpu/nearest_code_counters.h"

namespace vqgan_fast {
namespace {

// Arithmetic of a search below which not even the content of the codebook is looked at.
constexpr double kLeastHashedWork = 1e6;

struct Way {
  const char* name;
  std::optional<ScreenKind> screen;  // nothing: direct
};

constexpr Way kWays[] = {{"direct", std::nullopt},
                         {"fp32", ScreenKind::kFp32},
                         {"int16", ScreenKind::kInt16},
                         {"boxes", ScreenKind::kBoxes}};

// The way that VQGAN_FAST_SCREEN names; null: auto.
const Way* forced_way() {
  const char* name = std::getenv("VQGAN_FAST_SCREEN");
  if (name == nullptr || *name == '\0' || std::string(name) == "auto") return nullptr;
  for (const Way& way : kWays) {
    if (std::string(name) == way.name) return &way;
  }
  throw std::runtime_error(
      std::string("VQGAN_FAST_SCREEN must be auto, direct, fp32, int16 or boxes, got ") + name);
}

std::shared_ptr<const CodeScreen> make_screen(ScreenKind kind, const NearestCodeArgs& args,
                                              SimdLevel level, const Parallel& parallel) {
  switch (kind) {
    case ScreenKind::kFp32:
      return make_screen_fp32(args.codebook, args.num_codes, args.dim, level, parallel);
    case ScreenKind::kInt16:
      return make_screen_int16(args.codebook, args.num_codes, args.dim, level, parallel);
    case ScreenKind::kBoxes:
      return make_screen_boxes(args.codebook, args.num_codes, args.dim, level, parallel);
  }
  return nullptr;
}

void count_call(const SearchPlan& plan) {
  NearestCodeCounters& counters = nearest_code_counters();
  if (!plan.screen) {
    ++counters.calls_direct;
  } else if (plan.kind == ScreenKind::kFp32) {
    ++counters.calls_fp32;
  } else if (plan.kind == ScreenKind::kInt16) {
    ++counters.calls_int16;
  } else {
    ++counters.calls_boxes;
  }
}

std::vector<std::optional<ScreenKind>> rank_ways(const NearestCodeArgs& args) {
  if (args.num_rows <= 4) return {};
  if (args.dim <= 8 && args.num_codes >= 2048) return {ScreenKind::kBoxes, ScreenKind::kFp32};
  if (args.dim >= 16) return {ScreenKind::kInt16, ScreenKind::kFp32};
  return {ScreenKind::kFp32};
}

}  // namespace

SearchPlan plan_search(const NearestCodeArgs& args, const Parallel& parallel) {
  SearchPlan plan;
  plan.level = simd_level();
  const Way* forced = forced_way();
  std::vector<std::optional<ScreenKind>> ways;
  if (forced != nullptr) {
    ways = {forced->screen};
  } else {
    ways = rank_ways(args);
  }
  if (!ways.empty() && ways[0]) {
    ScreenKey key;
    const auto hash = [&] {
      return hash_content(args.codebook, args.num_codes, args.dim, parallel);
    };
    if (screen_cache_limit() > 0) {
      key.hash = hash();
      key.dtype = args.codebook.dtype;
      key.num_codes = args.num_codes;
      key.dim = args.dim;
      key.level = plan.level;
    }
    for (const auto& way : ways) {
      if (!way) break;
      plan.kind = key.kind = *way;
      plan.screen = screen_cache_limit() > 0 ? find_screen(key) : nullptr;
      if (plan.screen) {
        ++nearest_code_counters().calls_cached;
        break;
      }
      plan.screen = make_screen(*way, args, plan.level, parallel);
      if (plan.screen) {
        offer_screen(key, plan.screen, [&] { return hash() == key.hash; });
        break;
      }
    }
  }
  count_call(plan);
  return plan;
}

}  // namespace vqgan_fast
