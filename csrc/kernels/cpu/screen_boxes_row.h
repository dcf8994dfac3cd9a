// A row on its way among the boxes, and the two ways to score codes and boxes for it. Included by
// screen_boxes_search.h, whose remarks hold here too.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "kernels/cpu/screen_boxes.h"

namespace vqgan_fast {
namespace {

// Codes within the limit that a row remembers before it drops those above the present limit.
constexpr int kKeptCodes = 64;
// Leaves that are measured before the limit is looked at.
constexpr int kLeavesAtOnce = 8;
// Leaves that a row visits first: with few dimensions the nearest one says most, with more of them
// the best of some makes a much shorter list of the others.
constexpr int kMostHomes = 4;
template <int kDim>
constexpr int kHomes = kDim <= 3   ? 1
                       : kDim <= 4 ? 2
                                   : kMostHomes;
// Above this (centred and scaled) squares might overflow.
constexpr double kMostElement = 0x1p60;

// The codes that a row remembers: some leaves more than kKeptCodes, and room for a store of all
// lanes.
struct KeptCodes {
  static constexpr int kRoom = kKeptCodes + kLeavesAtOnce * kLeafCodes + 16;
  alignas(64) float scores[kRoom];
  int32_t places[kRoom];
};

// What every visit of a leaf reads, close together.
template <int kDim>
struct BoxRow {
  float x[kDim];  // of a far row, less the middle
  float limit;    // best * factor + slack: codes above it are not the definition's choice
  float best;
  float factor;
  float slack;
  float shift;  // of a far row: keeps its scores from being negative
  bool open;
  int num_kept;
  int num_homes;
  int32_t homes[kMostHomes];  // the leaves that are visited first
  int64_t near_end;           // of its part of the list of near leaves
  KeptCodes* kept;
};

// A row as it comes, centred and scaled, in fp64.
struct ScaledRow {
  double x[kMostBoxDim];
  double largest = 0.0;
  double norm2 = 0.0;
  double from_middle2 = 0.0;

  ScaledRow(const BoxTree& tree, const double* z) {
    for (int d = 0; d < tree.dim; ++d) {
      x[d] = (z[d] - tree.centre[d]) * tree.scale;
      const double from_middle = x[d] - static_cast<double>(tree.middle[d]);
      largest = std::fabs(x[d]) > largest ? std::fabs(x[d]) : largest;
      norm2 += x[d] * x[d];
      from_middle2 += from_middle * from_middle;
    }
  }

  bool is_far(const BoxTree& tree) const {
    return from_middle2 >= tree.far_norm2 && largest <= kMostElement;
  }
};

template <int kDim>
void start_row(double factor, double slack, BoxRow<kDim>* row) {
  row->factor = static_cast<float>(factor);
  row->slack = static_cast<float>(slack * (1.0 + 0x1p-20));
  row->best = FLT_MAX;
  row->limit = FLT_MAX;
  row->num_kept = 0;
}

// A box: kGroupBoxes lower bounds in each dimension, then as many upper ones.
inline const float* lower_sides(const float* boxes, int d) { return boxes + d * 2 * kGroupBoxes; }
inline const float* upper_sides(const float* boxes, int d) {
  return boxes + (d * 2 + 1) * kGroupBoxes;
}

// Squared distances |x - y|^2. docs/numerics.md, "The screen by boxes".
template <class V, int kDim>
struct NearScores {
  static constexpr bool kSifts = V::kHasSieve;
  using Float = typename V::Float;
  Float x[kDim];

  NearScores(const BoxTree& /*tree*/, const BoxRow<kDim>& row) {
    for (int d = 0; d < kDim; ++d) x[d] = V::broadcast(row.x[d]);
  }

  static void prepare(const BoxTree& tree, const ScaledRow& scaled, BoxRow<kDim>* row) {
    double lost = 0.0;
    row->open = !(scaled.largest <= kMostElement);
    for (int d = 0; d < kDim; ++d) row->x[d] = 0.0f;
    if (row->open) return start_row(1.0, 0.0, row);
    for (int d = 0; d < tree.dim; ++d) {
      row->x[d] = static_cast<float>(scaled.x[d]);
      lost += std::fabs(scaled.x[d] - static_cast<double>(row->x[d]));
    }
    double factor = 1.0 + (tree.dim + 8) * 0x1p-23;
    double slack = 0x1p-130;
    if (lost != 0.0 || tree.code_error != 0.0 || tree.centred) {
      const double error = tree.code_error + 0x1.01p-24 * std::sqrt(scaled.norm2) + 0x1p-140;
      factor += 0x1p-12;
      slack += 4.01 * 4097.0 * error * error;
    }
    start_row(factor, slack, row);
  }

  // Of kLanes codes, element d of which lies at panel[d * kLeafCodes].
  Float of_codes(const float* panel) const {
    Float sum;
    for (int d = 0; d < kDim; ++d) {
      const Float difference = V::sub(x[d], V::load(panel + d * kLeafCodes));
      sum = d == 0 ? V::mul(difference, difference) : V::mul_add(difference, difference, sum);
    }
    return sum;
  }

  // Of kLanes boxes. In every step the rounded result grows with the distance in that dimension, so
  // that no code in a box has a smaller fp32 score than the box.
  Float of_boxes(const float* boxes) const {
    Float sum;
    for (int d = 0; d < kDim; ++d) {
      const Float nearest =
          V::min(V::max(x[d], V::load(lower_sides(boxes, d))), V::load(upper_sides(boxes, d)));
      const Float difference = V::sub(x[d], nearest);
      sum = d == 0 ? V::mul(difference, difference) : V::mul_add(difference, difference, sum);
    }
    return sum;
  }
};

// |x - y|^2 - |x|^2 + shift = shift + w . (w - 2 x), where w = y - middle and x is taken from the
// middle too: of a row far away, what its distances to the codes have in common would drown in
// rounding what they differ by. docs/numerics.md, "Far rows".
template <class V, int kDim>
struct FarScores {
  static constexpr bool kSifts = false;
  using Float = typename V::Float;
  Float x[kDim], twice_x[kDim], middle[kDim], shift;

  FarScores(const BoxTree& tree, const BoxRow<kDim>& row) : shift(V::broadcast(row.shift)) {
    for (int d = 0; d < kDim; ++d) {
      x[d] = V::broadcast(row.x[d]);
      twice_x[d] = V::broadcast(2.0f * row.x[d]);
      middle[d] = V::broadcast(tree.middle[d]);
    }
  }

  static void prepare(const BoxTree& tree, const ScaledRow& scaled, BoxRow<kDim>* row) {
    row->open = false;
    for (int d = 0; d < kDim; ++d) row->x[d] = 0.0f;
    for (int d = 0; d < tree.dim; ++d) {
      row->x[d] = static_cast<float>(scaled.x[d] - static_cast<double>(tree.middle[d]));
    }
    const double far = std::sqrt(scaled.from_middle2) * (1.0 + 0x1p-20);  // X
    const double most = tree.radius * (tree.radius + 2.0 * far);          // B
    const double shift = most * (1.0 + 0x1p-10);
    const double n = tree.dim + 8;
    const double both = far + tree.radius;
    const double slack = 2.0 * n * 0x1p-24 * (shift + most) + 2.0 * n * 0x1p-53 * both * both +
                         4.04 * tree.code_error * both;
    row->shift = static_cast<float>(shift);
    start_row(1.0, slack, row);
  }

  Float of_codes(const float* panel) const {
    Float sum = shift;
    for (int d = 0; d < kDim; ++d) {
      const Float w = V::sub(V::load(panel + d * kLeafCodes), middle[d]);
      sum = V::mul_add(w, V::sub(w, twice_x[d]), sum);
    }
    return sum;
  }

  // The point of each box where the score is smallest is the one nearest to x, as above.
  Float of_boxes(const float* boxes) const {
    Float sum = shift;
    for (int d = 0; d < kDim; ++d) {
      const Float lower = V::sub(V::load(lower_sides(boxes, d)), middle[d]);
      const Float upper = V::sub(V::load(upper_sides(boxes, d)), middle[d]);
      const Float w = V::min(V::max(x[d], lower), upper);
      sum = V::mul_add(w, V::sub(w, twice_x[d]), sum);
    }
    return sum;
  }
};

}  // namespace
}  // namespace vqgan_fast
