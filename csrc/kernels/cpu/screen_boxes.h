// What the SIMD levels of the leaf-box screen share: the packed codebook, one thread's memory, and
// the table of their kernels. Plain structs only, see nearest_code_screen.h for the screen itself.
//
// Codes are put in k-d order and cut into leaves of kLeafCodes neighbours. A leaf whose bounding
// box is farther from a row than the best code so far is skipped. docs/numerics.md, "The screen by
// boxes".
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/cpu/nearest_code_screen.h"

namespace vqgan_fast {

constexpr int kLeafCodes = 32;
// Boxes lie in lanes, in groups of 16: the leaves of a group are neighbours, and form one branch.
constexpr int kGroupBoxes = 16;
constexpr int kMostBoxDim = 16;
// The place of a box among those that are compared fits in the low bits of its bound.
constexpr int32_t kPlaceMask = 4095;
// Rows that are searched side by side, so that one waits while another computes.
constexpr int kSideRows = 4;

struct BoxTree {
  // panels[(leaf * padded_dim + d) * kLeafCodes + lane], +inf behind the last code; zeros in the
  // elements d >= dim.
  const float* panels = nullptr;
  const int32_t* codes = nullptr;  // codes[leaf * kLeafCodes + lane]: index in the codebook
  // boxes[((group * padded_dim + d) * 2 + side) * kGroupBoxes + lane], side 0 the lower bound, 1
  // the upper one; +inf behind the last box. A branch is the box of a group of leaves.
  const float* leaf_boxes = nullptr;
  const float* branch_boxes = nullptr;
  // int16 images of the codes (box_sieve.h), null where there are none. Of a leaf: element d + i of
  // the code in a lane at [d * kLeafCodes + lane * 2 + i], d even; behind them squared norms,
  // int32.
  const int16_t* sieve = nullptr;
  float sieve_scale = 0.0f;
  int64_t num_leaves = 0;
  int64_t num_groups = 0;         // of leaves, and so the number of branches
  int64_t num_branch_groups = 0;  // 0: few leaves, no branches are searched
  int dim = 0;
  int padded_dim = 0;
  double centre[kMostBoxDim] = {};
  double scale = 1.0;       // a power of two
  double code_error = 0.0;  // largest |y rounded to fp32 - y|, 0 if all codes are exact in fp32
  bool centred = false;
  // The middle of the box around all codes, half its largest width and half its diagonal. Rows from
  // far_norm2 on, squared distance from the middle, are scored by products.
  float middle[kMostBoxDim] = {};
  double half_width = 0.0;
  double radius = 0.0;
  double far_norm2 = std::numeric_limits<double>::infinity();
};

// One thread's memory. Vectors are stored whole: every list has room for one more.
struct BoxSearch {
  const BoxTree* tree = nullptr;
  // 0 for a box that may be visited, +inf for one outside the range.
  const float* leaf_edges = nullptr;
  const float* branch_edges = nullptr;
  float* bounds = nullptr;  // kSideRows times the boxes of the upper level
  int32_t* branches = nullptr;
  float* branch_bounds = nullptr;
  // The leaves that rows have still to visit, row by row: room for kSideRows times all leaves.
  int64_t num_near = 0;
  int32_t* near_leaves = nullptr;
  float* near_bounds = nullptr;
  int64_t leaves_visited = 0;
};

// The padded dimension for a codebook of `dim` columns: every level has a kernel for it.
int padded_box_dim(int64_t dim);

using ScreenBoxesFn = void (*)(BoxSearch* search, const double* z, int64_t num_rows,
                               RowCandidates* out);
// The kernel of a level for a padded dimension.
ScreenBoxesFn screen_boxes_baseline(int padded_dim);
#ifdef VQGAN_FAST_HAS_SCREEN_BOXES_AVX2
ScreenBoxesFn screen_boxes_avx2(int padded_dim);
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_BOXES_AVX512
ScreenBoxesFn screen_boxes_avx512(int padded_dim);
#endif

}  // namespace vqgan_fast
