// Visits of leaves: their codes are measured, where need be after a sieve. Included by
// screen_boxes_search.h, whose remarks hold here too.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cstdint>

#include "kernels/cpu/screen_boxes.h"
#include "kernels/cpu/screen_boxes_row.h"
#include "kernels/cpu/screen_boxes_sieve.h"

namespace vqgan_fast {
namespace {

template <int kDim>
void drop_above_limit(BoxRow<kDim>* row) {
  int kept = 0;
  for (int i = 0; i < row->num_kept; ++i) {
    row->kept->places[kept] = row->kept->places[i];
    row->kept->scores[kept] = row->kept->scores[i];
    kept += row->kept->scores[i] <= row->limit;
  }
  row->num_kept = kept;
}

// Takes up the scores of some leaves, of which at least one is within the limit: least has their
// smallest ones. A call, for it is rare behind the first leaves of a row.
template <class V, int kDim>
[[gnu::noinline]] void take_scores(const float* scores, const int32_t* leaves, int num_leaves,
                                   typename V::Float least, BoxRow<kDim>* row) {
  const float best = V::least(least);
  if (best < row->best) {
    row->best = best;
    const float limit = best * row->factor + row->slack;
    row->limit = limit < FLT_MAX ? limit : FLT_MAX;
  }
  if (row->num_kept > kKeptCodes) {
    drop_above_limit(row);
    if (row->num_kept > kKeptCodes) {
      row->open = true;
      row->num_kept = 0;
    }
  }
  const auto limit = V::broadcast(row->limit);
  int kept = row->num_kept;
  for (int n = 0; n < num_leaves; ++n) {
    for (int lane = 0; lane < kLeafCodes; lane += V::kLanes) {
      kept += V::keep(V::load(scores + n * kLeafCodes + lane), limit, leaves[n] * kLeafCodes + lane,
                      row->kept->scores + kept, row->kept->places + kept);
    }
  }
  row->num_kept = kept;
}

// Measures the codes of at most kLeavesAtOnce leaves, and keeps those within the limit. One test
// for all of them: each that goes another way than was foreseen costs as much as some leaves.
template <class V, class Scores, int kDim>
[[gnu::always_inline]] inline void visit_leaves(const BoxTree& tree, const int32_t* leaves,
                                                int num_leaves, const Scores& of_row,
                                                BoxRow<kDim>* row) {
  alignas(64) float scores[kLeavesAtOnce * kLeafCodes];
  auto least = V::broadcast(FLT_MAX);
  for (int n = 0; n < num_leaves; ++n) {
    const float* panel = tree.panels + int64_t{leaves[n]} * kDim * kLeafCodes;
    for (int lane = 0; lane < kLeafCodes; lane += V::kLanes) {
      const auto some = of_row.of_codes(panel + lane);
      V::store(scores + n * kLeafCodes + lane, some);
      least = V::min(least, some);
    }
  }
  if (V::any_within(least, V::broadcast(row->limit))) {
    take_scores<V, kDim>(scores, leaves, num_leaves, least, row);
  }
}

// Drops the leaves whose bound is above the limit; returns how many are left.
inline int64_t drop_leaves(float limit, int64_t count, int32_t* leaves, float* bounds) {
  int64_t kept = 0;
  for (int64_t i = 0; i < count; ++i) {
    leaves[kept] = leaves[i];
    bounds[kept] = bounds[i];
    kept += bounds[i] <= limit;
  }
  return kept;
}

// Visits listed leaves, of which the sieve keeps most away; returns how many it was shown.
template <class V, class Scores, int kDim>
int64_t visit_sifted(const BoxTree& tree, int32_t* leaves, float* bounds, int64_t count,
                     const Scores& of_row, Sieve<V, kDim>* sieve, BoxRow<kDim>* row) {
  int64_t shown = 0;
  while (shown < count) {
    int32_t* const some = leaves + shown;
    const int at_once = static_cast<int>(std::min<int64_t>(count - shown, kLeavesAtOnce));
    shown += at_once;
    const int kept = sieve->sift(some, at_once);
    if (kept == 0) continue;
    const float limit = row->limit;
    visit_leaves<V>(tree, some, kept, of_row, row);
    if (row->limit == limit) continue;
    sieve->set_limit(*row);
    count = shown + drop_leaves(row->limit, count - shown, leaves + shown, bounds + shown);
  }
  return shown;
}

// Visits listed leaves; returns how many were measured or shown to a sieve.
template <class V, class Scores, int kDim>
int64_t visit_listed(const BoxTree& tree, int32_t* leaves, float* bounds, int64_t count,
                     BoxRow<kDim>* row) {
  const Scores of_row(tree, *row);
  if constexpr (Scores::kSifts && has_sieve(kDim)) {
    Sieve<V, kDim> sieve(tree);
    if (count >= kLeastSifted && sieve.start(*row)) {
      return visit_sifted<V>(tree, leaves, bounds, count, of_row, &sieve, row);
    }
  }
  int64_t visited = 0;
  for (int64_t i = 0; i < count;) {
    // Without those that the limit has come to exclude.
    int32_t some[kLeavesAtOnce];
    int kept = 0;
    for (const int64_t end = std::min(i + kLeavesAtOnce, count); i < end; ++i) {
      some[kept] = leaves[i];
      kept += bounds[i] <= row->limit;
    }
    visit_leaves<V>(tree, some, kept, of_row, row);
    visited += kept;
  }
  return visited;
}

}  // namespace
}  // namespace vqgan_fast
