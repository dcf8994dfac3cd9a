// The search of the leaf-box screen, written once for every SIMD level. Included by the levels'
// translation units only. It lies in an anonymous namespace so that each unit keeps its own copy,
// compiled with its own flags.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/cpu/screen_boxes.h"
#include "kernels/cpu/screen_boxes_row.h"
#include "kernels/cpu/screen_boxes_visit.h"

namespace vqgan_fast {
namespace {

// Scores is one of the two of screen_boxes_row.h: a row as it scores codes and boxes.

// The bound of a box that is not to be listed, being visited already: above every limit.
constexpr float kStruck = std::numeric_limits<float>::infinity();

// Bounds of all boxes of the groups; returns each lane's smallest one, roughly: its place stands in
// the low bits of what is compared.
template <class V, class Scores>
typename V::Places bound_groups(const Scores& row, int64_t group_floats, const float* boxes,
                                const float* edges, int64_t num_groups, float* bounds) {
  typename V::Places least = V::no_places();
  for (int64_t g = 0; g < num_groups; ++g) {
    for (int lane = 0; lane < kGroupBoxes; lane += V::kLanes) {
      const int64_t first = g * kGroupBoxes + lane;
      const auto bound =
          V::max(row.of_boxes(boxes + g * group_floats + lane), V::load(edges + first));
      V::store(bounds + first, bound);
      least = V::nearer(least, bound, static_cast<int32_t>(first));
    }
  }
  return least;
}

// Takes the nearest leaves as those that the row visits first, and strikes their bounds out. The
// bounds are of the leaves from first_leaf on.
template <class V, int kDim>
void take_homes(typename V::Places least, int64_t first_leaf, float* bounds, BoxRow<kDim>* row) {
  constexpr int32_t kInfinite = 0x7f800000 & ~kPlaceMask;
  row->num_homes = 0;
  for (int n = 0; n < kHomes<kDim>; ++n) {
    const int32_t nearest = V::smallest(least);
    if (nearest >= kInfinite) return;
    const int32_t place = nearest & kPlaceMask;
    bounds[place] = kStruck;
    row->homes[row->num_homes++] = static_cast<int32_t>(first_leaf) + place;
    if (n + 1 < kHomes<kDim>) least = V::without(least, nearest);
  }
}

// Lists the boxes whose bound is within the limit.
template <class V>
int64_t list_within(const float* bounds, int64_t num_groups, int64_t first_place, float limit,
                    int32_t* places, float* listed_bounds) {
  const auto limits = V::broadcast(limit);
  int64_t listed = 0;
  for (int64_t i = 0; i < num_groups * kGroupBoxes; i += V::kLanes) {
    listed += V::keep(V::load(bounds + i), limits, static_cast<int32_t>(first_place + i),
                      listed_bounds + listed, places + listed);
  }
  return listed;
}

template <int kDim>
void finish_row(const BoxTree& tree, BoxRow<kDim>* row, RowCandidates* out) {
  drop_above_limit(row);
  out->open = row->open || row->num_kept > RowCandidates::kMost;
  out->count = out->open ? 0 : row->num_kept;
  for (int i = 0; i < out->count; ++i) out->codes[i] = tree.codes[row->kept->places[i]];
}

template <class V, class Scores, int kDim>
void visit_homes(const BoxTree& tree, BoxRow<kDim>* rows, int num_rows) {
  for (int r = 0; r < num_rows; ++r) {
    visit_leaves<V>(tree, rows[r].homes, rows[r].num_homes, Scores(tree, rows[r]), &rows[r]);
  }
}

// Visits the nearest leaves of each row, then lists the others that are within the limit. All
// leaves have their bounds computed.
template <class V, class Scores, int kDim>
void list_leaves(BoxSearch* search, BoxRow<kDim>* rows, int num_rows) {
  constexpr int64_t kGroupFloats = kDim * 2 * kGroupBoxes;
  const BoxTree& tree = *search->tree;
  const int64_t size = tree.num_groups * kGroupBoxes;
  for (int r = 0; r < num_rows; ++r) {
    float* bounds = search->bounds + r * size;
    take_homes<V>(bound_groups<V>(Scores(tree, rows[r]), kGroupFloats, tree.leaf_boxes,
                                  search->leaf_edges, tree.num_groups, bounds),
                  0, bounds, &rows[r]);
  }
  visit_homes<V, Scores>(tree, rows, num_rows);
  for (int r = 0; r < num_rows; ++r) {
    search->num_near += list_within<V>(search->bounds + r * size, tree.num_groups, 0, rows[r].limit,
                                       search->near_leaves + search->num_near,
                                       search->near_bounds + search->num_near);
    rows[r].near_end = search->num_near;
  }
}

// The same. Only the leaves of near branches have their bounds computed.
template <class V, class Scores, int kDim>
void list_leaves_by_branch(BoxSearch* search, BoxRow<kDim>* rows, int num_rows) {
  constexpr int64_t kGroupFloats = kDim * 2 * kGroupBoxes;
  const BoxTree& tree = *search->tree;
  const int64_t size = tree.num_branch_groups * kGroupBoxes;
  int32_t home_branches[kSideRows];
  alignas(64) float home_bounds[kSideRows][kGroupBoxes];
  for (int r = 0; r < num_rows; ++r) {
    float* bounds = search->bounds + r * size;
    const auto least = bound_groups<V>(Scores(tree, rows[r]), kGroupFloats, tree.branch_boxes,
                                       search->branch_edges, tree.num_branch_groups, bounds);
    home_branches[r] = V::smallest(least) & kPlaceMask;
    bounds[home_branches[r]] = kStruck;
  }
  for (int r = 0; r < num_rows; ++r) {
    const int64_t branch = home_branches[r];
    take_homes<V>(bound_groups<V>(Scores(tree, rows[r]), kGroupFloats,
                                  tree.leaf_boxes + branch * kGroupFloats,
                                  search->leaf_edges + branch * kGroupBoxes, 1, home_bounds[r]),
                  branch * kGroupBoxes, home_bounds[r], &rows[r]);
  }
  visit_homes<V, Scores>(tree, rows, num_rows);
  for (int r = 0; r < num_rows; ++r) {
    const Scores of_row(tree, rows[r]);
    const auto limit = V::broadcast(rows[r].limit);
    const int64_t home = home_branches[r];
    int64_t listed = search->num_near;
    listed += list_within<V>(home_bounds[r], 1, home * kGroupBoxes, rows[r].limit,
                             search->near_leaves + listed, search->near_bounds + listed);
    const int64_t num_branches =
        list_within<V>(search->bounds + r * size, tree.num_branch_groups, 0, rows[r].limit,
                       search->branches, search->branch_bounds);
    for (int64_t i = 0; i < num_branches; ++i) {
      const int64_t first = int64_t{search->branches[i]} * kGroupBoxes;
      for (int64_t leaf = first; leaf < first + kGroupBoxes; leaf += V::kLanes) {
        const float* boxes = tree.leaf_boxes + search->branches[i] * kGroupFloats + (leaf - first);
        const auto bounds = V::max(of_row.of_boxes(boxes), V::load(search->leaf_edges + leaf));
        listed += V::keep(bounds, limit, static_cast<int32_t>(leaf), search->near_bounds + listed,
                          search->near_leaves + listed);
      }
    }
    search->num_near = listed;
    rows[r].near_end = listed;
  }
}

// Visits the leaves that were listed.
template <class V, class Scores, int kDim>
void visit_near_leaves(BoxSearch* search, BoxRow<kDim>* rows, int64_t num_rows) {
  int64_t begin = 0;
  for (int64_t r = 0; r < num_rows; ++r) {
    const int64_t end = rows[r].near_end;
    search->leaves_visited +=
        rows[r].num_homes + visit_listed<V, Scores>(*search->tree, search->near_leaves + begin,
                                                    search->near_bounds + begin, end - begin,
                                                    &rows[r]);
    begin = end;
  }
  search->num_near = 0;
}

// Rows of one kind that wait to be searched side by side.
template <class V, class Scores, int kDim>
class SideRows {
 public:
  explicit SideRows(BoxSearch* search) : search_(search) {}

  void add(const ScaledRow& scaled, RowCandidates* out) {
    rows_[count_].kept = &kept_[count_];
    Scores::prepare(*search_->tree, scaled, &rows_[count_]);
    out_[count_++] = out;
    if (count_ == kSideRows) run();
  }

  void run() {
    if (search_->tree->num_branch_groups > 0) {
      list_leaves_by_branch<V, Scores>(search_, rows_, count_);
    } else {
      list_leaves<V, Scores>(search_, rows_, count_);
    }
    visit_near_leaves<V, Scores>(search_, rows_, count_);
    for (int r = 0; r < count_; ++r) finish_row(*search_->tree, &rows_[r], out_[r]);
    count_ = 0;
  }

 private:
  BoxSearch* search_;
  int count_ = 0;
  BoxRow<kDim> rows_[kSideRows];
  RowCandidates* out_[kSideRows];
  KeptCodes kept_[kSideRows];
};

template <class V, int kDim>
void screen_rows(BoxSearch* search, const double* z, int64_t num_rows, RowCandidates* out) {
  const BoxTree& tree = *search->tree;
  SideRows<V, NearScores<V, kDim>, kDim> near(search);
  SideRows<V, FarScores<V, kDim>, kDim> far(search);
  for (int64_t r = 0; r < num_rows; ++r) {
    const ScaledRow scaled(tree, z + r * tree.dim);
    if (scaled.is_far(tree)) {
      far.add(scaled, out + r);
    } else {
      near.add(scaled, out + r);
    }
  }
  near.run();
  far.run();
}

template <class V>
ScreenBoxesFn kernel_for(int padded_dim) {
  switch (padded_dim) {
    case 1:
      return screen_rows<V, 1>;
    case 2:
      return screen_rows<V, 2>;
    case 3:
      return screen_rows<V, 3>;
    case 4:
      return screen_rows<V, 4>;
    case 6:
      return screen_rows<V, 6>;
    case 8:
      return screen_rows<V, 8>;
    case 12:
      return screen_rows<V, 12>;
    default:
      return screen_rows<V, 16>;
  }
}

}  // namespace
}  // namespace vqgan_fast
