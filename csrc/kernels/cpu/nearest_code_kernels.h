// The inner loops of nearest_code, which every SIMD level writes for itself, and what they share:
// plain structs, and one function that is compiled once. No inline function and no template may
// stand here: the linker could keep the copy that was compiled for the widest level and run it
// everywhere.
#pragma once

#include <cstdint>

namespace vqgan_fast {

// Codes lie in lanes: a panel is 16 codes, panel[d * 16 + lane], with their 0.5 ||e||^2.
constexpr int kPanelCodes = 16;
// Codes in one step of the fp64 scan, codes[d * 8 + lane].
constexpr int kDirectCodes = 8;
// Rows in one step of the fp64 scan.
constexpr int kDirectRows = 4;
// Pairs of a row and a code whose fp64 distances are summed side by side.
constexpr int kPairs = 4;
// No SIMD level takes more rows in one tile of the screen.
constexpr int kMaxTileRows = 16;
// A row with more codes than this inside its error bound is scanned in fp64.
constexpr int kMaxCandidates = 64;

struct Candidate {
  int64_t code;
  float score;
};

// What the screen knows of one row: the codes whose score is within `margin` of the smallest so
// far, in ascending order.
struct RowScreen {
  double margin;  // negative: only the first code with the smallest score is wanted
  float best;     // smallest score so far
  float limit;    // scores above it are out
  bool overflow;  // there were more candidates than fit
  int num_candidates;
  Candidate candidates[kMaxCandidates];
};

// Takes up the scores of one panel, of which at least one is <= row->limit.
void keep_candidates(RowScreen* row, const float* scores, int64_t first_code);

struct NearestCodeKernels {
  int tile_rows;  // rows that `screen` takes at a time

  // score = 0.5 ||e||^2 - z.e in fp32 for tile_rows rows (z[d * tile_rows + r]) against num_panels
  // panels, the first of which begins with code first_code; hands every panel with a score <= limit
  // to keep_candidates. At most dim products and one half norm are summed in sequence, a product
  // being rounded before it is added or not.
  void (*screen)(const float* z, int64_t dim, const float* panels, const float* half_norms,
                 int64_t num_panels, int64_t first_code, RowScreen* const* rows);

  // distances[i] = sum over d of (z[i][d] - e[i][d])^2 for kPairs pairs, in the order of the
  // definition.
  void (*pair_distances)(const double* const* z, const double* const* e, int64_t dim,
                         double* distances);

  // distances[r * kDirectCodes + lane], the same sums for kDirectRows rows against kDirectCodes
  // codes.
  void (*block_distances)(const double* const* z, const double* codes, int64_t dim,
                          double* distances);
};

extern const NearestCodeKernels kNearestCodeBaseline;
#ifdef VQGAN_FAST_HAS_NEAREST_CODE_AVX2
extern const NearestCodeKernels kNearestCodeAvx2;
#endif
#ifdef VQGAN_FAST_HAS_NEAREST_CODE_AVX512
extern const NearestCodeKernels kNearestCodeAvx512;
#endif

}  // namespace vqgan_fast
