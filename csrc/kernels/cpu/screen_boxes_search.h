// The search of the leaf-box screen, written once for every SIMD level. Included by the levels'
// translation units only. It lies in an anonymous namespace so that each unit keeps its own copy,
// compiled with its own flags.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "kernels/cpu/screen_boxes.h"

namespace vqgan_fast {
namespace {

// Codes within the limit that a row remembers before it drops those above the present limit.
constexpr int kKeptCodes = 64;
// Above this (centred and scaled) squares might overflow.
constexpr double kMostElement = 0x1p60;

// The codes that a row remembers: one leaf more than kKeptCodes, and room for a store of all lanes.
struct KeptCodes {
  alignas(64) float scores[kKeptCodes + kLeafCodes + 16];
  int32_t places[kKeptCodes + kLeafCodes + 16];
};

// What every visit of a leaf reads, close together.
template <int kDim>
struct BoxRow {
  float x[kDim];
  float limit;  // best * factor + slack: codes above it are not the definition's choice
  float best;
  float factor;
  float slack;
  bool open;
  int num_kept;
  int64_t home;      // the leaf that was visited first
  int64_t near_end;  // of its part of the list of near leaves
  KeptCodes* kept;
};

// Forms x = scale * (z - centre) in fp32 and the two terms of the limit (docs/numerics.md).
template <int kDim>
void prepare_row(const BoxTree& tree, const double* z, BoxRow<kDim>* row) {
  const int dim = tree.dim;
  double largest = 0.0, norm2 = 0.0, lost = 0.0;
  for (int d = 0; d < kDim; ++d) row->x[d] = 0.0f;
  for (int d = 0; d < dim; ++d) {
    const double x = (z[d] - tree.centre[d]) * tree.scale;
    const float rounded = static_cast<float>(x);
    row->x[d] = rounded;
    largest = std::fabs(x) > largest ? std::fabs(x) : largest;
    lost += std::fabs(x - static_cast<double>(rounded));
    norm2 += x * x;
  }
  row->open = !(largest <= kMostElement);
  double factor = 1.0 + (dim + 8) * 0x1p-23;
  double slack = 0x1p-130;
  if (lost != 0.0 || tree.code_error != 0.0 || tree.centred) {
    const double error = tree.code_error + 0x1.01p-24 * std::sqrt(norm2) + 0x1p-140;
    factor += 0x1p-12;
    slack += 4.01 * 4097.0 * error * error;
  }
  if (row->open) {
    for (int d = 0; d < kDim; ++d) row->x[d] = 0.0f;
    factor = 1.0;
    slack = 0.0;
  }
  row->factor = static_cast<float>(factor);
  row->slack = static_cast<float>(slack * (1.0 + 0x1p-20));
  row->best = FLT_MAX;
  row->limit = FLT_MAX;
  row->num_kept = 0;
}

// Squared distances of x to kLanes boxes. In every step the rounded result grows with the distance
// in that dimension, so that no code in a box has a smaller fp32 score than the box.
template <class V, int kDim>
typename V::Float box_bounds(const float* boxes, const float* edges,
                             const typename V::Float (&x)[kDim]) {
  typename V::Float sum = V::broadcast(0.0f);
  for (int d = 0; d < kDim; ++d) {
    const float* sides = boxes + d * 2 * kGroupBoxes;
    const auto nearest = V::min(V::max(x[d], V::load(sides)), V::load(sides + kGroupBoxes));
    const auto difference = V::sub(x[d], nearest);
    sum = d == 0 ? V::mul(difference, difference) : V::mul_add(difference, difference, sum);
  }
  return V::max(sum, V::load(edges));
}

template <class V, int kDim>
void broadcast_row(const BoxRow<kDim>& row, typename V::Float (&x)[kDim]) {
  for (int d = 0; d < kDim; ++d) x[d] = V::broadcast(row.x[d]);
}

// Bounds of all boxes of the groups; returns the box with the smallest one, roughly: its place
// stands in the low bits of what is compared.
template <class V, int kDim>
int64_t bound_groups(const float* boxes, const float* edges, int64_t num_groups,
                     const BoxRow<kDim>& row, float* bounds) {
  typename V::Float x[kDim];
  broadcast_row<V>(row, x);
  typename V::Places least = V::no_places();
  for (int64_t g = 0; g < num_groups; ++g) {
    for (int lane = 0; lane < kGroupBoxes; lane += V::kLanes) {
      const auto sum = box_bounds<V, kDim>(boxes + g * kDim * 2 * kGroupBoxes + lane,
                                           edges + g * kGroupBoxes + lane, x);
      V::store(bounds + g * kGroupBoxes + lane, sum);
      least = V::nearer(least, sum, static_cast<int32_t>(g * kGroupBoxes + lane));
    }
  }
  return V::nearest_place(least);
}

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

// Takes up the scores of a leaf, of which at least one is within the limit. Rare, and so a call.
template <class V, int kDim>
[[gnu::noinline]] void take_scores(const typename V::Float* scores, int64_t leaf,
                                   BoxRow<kDim>* row) {
  constexpr int kVectors = kLeafCodes / V::kLanes;
  auto least = scores[0];
  for (int v = 1; v < kVectors; ++v) least = V::min(least, scores[v]);
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
  for (int v = 0; v < kVectors; ++v) {
    kept += V::keep(scores[v], limit, static_cast<int32_t>(leaf * kLeafCodes + v * V::kLanes),
                    row->kept->scores + kept, row->kept->places + kept);
  }
  row->num_kept = kept;
}

// Measures the codes of a leaf, and keeps those within the limit.
template <class V, int kDim>
[[gnu::always_inline]] inline void visit_leaf(const BoxTree& tree, int64_t leaf,
                                              const typename V::Float (&x)[kDim],
                                              BoxRow<kDim>* row) {
  constexpr int kVectors = kLeafCodes / V::kLanes;
  const float* panel = tree.panels + leaf * kDim * kLeafCodes;
  typename V::Float scores[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    for (int d = 0; d < kDim; ++d) {
      const auto difference = V::sub(x[d], V::load(panel + d * kLeafCodes + v * V::kLanes));
      scores[v] =
          d == 0 ? V::mul(difference, difference) : V::mul_add(difference, difference, scores[v]);
    }
  }
  auto least = scores[0];
  for (int v = 1; v < kVectors; ++v) least = V::min(least, scores[v]);
  if (V::any_within(least, V::broadcast(row->limit))) take_scores<V, kDim>(scores, leaf, row);
}

// Lists the boxes whose bound is within the limit, except one.
template <class V>
int64_t list_within(const float* bounds, int64_t num_groups, int64_t first_place, float limit,
                    int64_t except, int32_t* places, float* listed_bounds) {
  const auto limits = V::broadcast(limit);
  int64_t listed = 0;
  for (int64_t i = 0; i < num_groups * kGroupBoxes; i += V::kLanes) {
    listed += V::list(V::load(bounds + i), limits, static_cast<int32_t>(first_place + i),
                      static_cast<int32_t>(except), places + listed, listed_bounds + listed);
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

// Visits the nearest leaf of each row, then lists the others that are within the limit. All leaves
// have their bounds computed.
template <class V, int kDim>
void list_leaves(BoxSearch* search, BoxRow<kDim>* rows, int num_rows) {
  const BoxTree& tree = *search->tree;
  const int64_t size = tree.num_groups * kGroupBoxes;
  for (int r = 0; r < num_rows; ++r) {
    rows[r].home = bound_groups<V>(tree.leaf_boxes, search->leaf_edges, tree.num_groups, rows[r],
                                   search->bounds + r * size);
  }
  for (int r = 0; r < num_rows; ++r) {
    typename V::Float x[kDim];
    broadcast_row<V>(rows[r], x);
    visit_leaf<V, kDim>(tree, rows[r].home, x, &rows[r]);
  }
  for (int r = 0; r < num_rows; ++r) {
    search->num_near += list_within<V>(search->bounds + r * size, tree.num_groups, 0, rows[r].limit,
                                       rows[r].home, search->near_leaves + search->num_near,
                                       search->near_bounds + search->num_near);
    rows[r].near_end = search->num_near;
  }
}

// The same. Only the leaves of near branches have their bounds computed.
template <class V, int kDim>
void list_leaves_by_branch(BoxSearch* search, BoxRow<kDim>* rows, int num_rows) {
  constexpr int64_t kGroupFloats = kDim * 2 * kGroupBoxes;
  const BoxTree& tree = *search->tree;
  const int64_t size = tree.num_branch_groups * kGroupBoxes;
  for (int r = 0; r < num_rows; ++r) {
    rows[r].home = bound_groups<V>(tree.branch_boxes, search->branch_edges, tree.num_branch_groups,
                                   rows[r], search->bounds + r * size);
  }
  for (int r = 0; r < num_rows; ++r) {
    alignas(64) float bounds[kGroupBoxes];
    const int64_t branch = rows[r].home;
    rows[r].home = branch * kGroupBoxes + bound_groups<V>(tree.leaf_boxes + branch * kGroupFloats,
                                                          search->leaf_edges + branch * kGroupBoxes,
                                                          1, rows[r], bounds);
    typename V::Float x[kDim];
    broadcast_row<V>(rows[r], x);
    visit_leaf<V, kDim>(tree, rows[r].home, x, &rows[r]);
  }
  for (int r = 0; r < num_rows; ++r) {
    typename V::Float x[kDim];
    broadcast_row<V>(rows[r], x);
    const auto limit = V::broadcast(rows[r].limit);
    const auto home = static_cast<int32_t>(rows[r].home);
    const int64_t num_branches =
        list_within<V>(search->bounds + r * size, tree.num_branch_groups, 0, rows[r].limit, -1,
                       search->branches, search->branch_bounds);
    int64_t listed = search->num_near;
    for (int64_t i = 0; i < num_branches; ++i) {
      const int64_t first = int64_t{search->branches[i]} * kGroupBoxes;
      for (int64_t leaf = first; leaf < first + kGroupBoxes; leaf += V::kLanes) {
        const auto bounds = box_bounds<V, kDim>(
            tree.leaf_boxes + search->branches[i] * kGroupFloats + (leaf - first),
            search->leaf_edges + leaf, x);
        listed += V::list(bounds, limit, static_cast<int32_t>(leaf), home,
                          search->near_leaves + listed, search->near_bounds + listed);
      }
    }
    search->num_near = listed;
    rows[r].near_end = listed;
  }
}

// Visits the leaves that were listed.
template <class V, int kDim>
void visit_near_leaves(BoxSearch* search, BoxRow<kDim>* rows, int64_t num_rows) {
  constexpr int64_t kChunk = 16;
  const BoxTree& tree = *search->tree;
  int64_t i = 0;
  for (int64_t r = 0; r < num_rows; ++r) {
    BoxRow<kDim>* row = rows + r;
    typename V::Float x[kDim];
    broadcast_row<V>(*row, x);
    int64_t visited = 1;
    // Of a long list, what the limit has come to exclude is dropped by the chunk: a test before
    // each leaf would cost what it saves, being hard to predict.
    for (; i + kChunk < row->near_end; i += kChunk) {
      int32_t leaves[kChunk];
      int count = 0;
      for (int64_t j = i; j < i + kChunk; ++j) {
        leaves[count] = search->near_leaves[j];
        count += search->near_bounds[j] <= row->limit;
      }
      for (int n = 0; n < count; ++n) visit_leaf<V, kDim>(tree, leaves[n], x, row);
      visited += count;
    }
    for (; i < row->near_end; ++i) {
      if (!(search->near_bounds[i] <= row->limit)) continue;
      visit_leaf<V, kDim>(tree, search->near_leaves[i], x, row);
      ++visited;
    }
    search->leaves_visited += visited;
  }
  search->num_near = 0;
}

template <class V, int kDim>
void screen_rows(BoxSearch* search, const double* z, int64_t num_rows, RowCandidates* out) {
  const BoxTree& tree = *search->tree;
  BoxRow<kDim> rows[kSideRows];
  KeptCodes kept[kSideRows];
  for (int64_t first = 0; first < num_rows; first += kSideRows) {
    const int count = static_cast<int>(num_rows - first < kSideRows ? num_rows - first : kSideRows);
    for (int r = 0; r < count; ++r) {
      rows[r].kept = &kept[r];
      prepare_row(tree, z + (first + r) * tree.dim, &rows[r]);
    }
    if (tree.num_branch_groups > 0) {
      list_leaves_by_branch<V>(search, rows, count);
    } else {
      list_leaves<V>(search, rows, count);
    }
    visit_near_leaves<V>(search, rows, count);
    for (int r = 0; r < count; ++r) finish_row(tree, &rows[r], out + first + r);
  }
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
