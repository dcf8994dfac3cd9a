#include "kernels/cpu/nearest_code_block.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "kernels/cpu/row_block.h"

namespace vqgan_fast {
namespace {

// Panels that stay in the first-level cache while every tile of a block passes over them, in
// floats.
constexpr int64_t kGroupFloats = 4096;
// Above this norm (centred and scaled) fp32 sums might overflow.
constexpr double kMostRowNorm = 0x1p60;

// How far the fp32 score of the code that the definition chooses can lie above the smallest fp32
// score. docs/numerics.md, "The bound", derives both terms.
double screen_margin(int64_t dim, double row_norm, double max_norm) {
  const double n32 = (dim + 8) * 0x1p-24;
  const double n64 = (dim + 8) * 0x1p-53;
  const double rounding = n32 / (1.0 - n32) * (0.5 * max_norm * max_norm + row_norm * max_norm);
  const double definition = n64 * (row_norm + max_norm) * (row_norm + max_norm);
  return 2.0 * rounding + definition;
}

float round_up(double value) {
  const float rounded = static_cast<float>(value);
  return rounded < value ? std::nextafter(rounded, FLT_MAX) : rounded;
}

void drop_candidates_above_limit(RowScreen* row) {
  int kept = 0;
  for (int i = 0; i < row->num_candidates; ++i) {
    if (row->candidates[i].score <= row->limit) row->candidates[kept++] = row->candidates[i];
  }
  row->num_candidates = kept;
}

}  // namespace

void keep_candidates(RowScreen* row, const float* scores, int64_t first_code) {
  int first_smallest = -1;
  for (int lane = 0; lane < kPanelCodes; ++lane) {
    if (scores[lane] < row->best) {
      row->best = scores[lane];
      first_smallest = lane;
    }
  }
  if (row->margin < 0.0) {
    if (first_smallest < 0) return;
    row->limit = std::nextafter(row->best, -FLT_MAX);
    row->candidates[0] = {first_code + first_smallest, -FLT_MAX};
    row->num_candidates = 1;
    return;
  }
  if (first_smallest >= 0) row->limit = round_up(row->best + row->margin);
  for (int lane = 0; lane < kPanelCodes; ++lane) {
    if (!(scores[lane] <= row->limit)) continue;
    if (row->num_candidates == kMaxCandidates) drop_candidates_above_limit(row);
    if (row->num_candidates == kMaxCandidates) {
      row->overflow = true;
      row->limit = -FLT_MAX;
      return;
    }
    row->candidates[row->num_candidates++] = {first_code + lane, scores[lane]};
  }
}

BlockSearch::BlockSearch(const NearestCodeArgs& args, const PackedCodebook& packed,
                         const NearestCodeKernels& kernels, bool need_distances)
    : args_(args),
      packed_(packed),
      kernels_(kernels),
      need_distances_(need_distances),
      dim_(args.dim),
      z_(kBlockRows * dim_),
      codes_(kDirectCodes * dim_),
      code_lanes_(kDirectCodes * dim_),
      kinds_(kBlockRows) {
  if (packed_.usable) {
    scaled_.resize(kBlockRows * dim_);
    screens_.resize(kBlockRows);
  }
}

void BlockSearch::run(int64_t first_row, int64_t num_rows, int64_t first_code, int64_t last_code,
                      Nearest* found) {
  load_rows(args_.z, first_row, num_rows, dim_, z_.data());
  std::fill(found, found + num_rows, Nearest());
  for (int64_t r = 0; r < num_rows; ++r) prepare_row(r);
  if (packed_.usable) {
    screen(num_rows, first_code, last_code);
    measure_candidates(num_rows, found);
  }
  scan_direct(num_rows, first_code, last_code, found);
}

// Decides the kind of a row and, if it is to be screened, sets up its screen.
void BlockSearch::prepare_row(int64_t r) {
  const double* z = z_.data() + r * dim_;
  kinds_[r] = all_finite(z, dim_) ? RowKind::kDirect : RowKind::kNotFinite;
  if (!packed_.usable) return;

  const int64_t tile_rows = kernels_.tile_rows;
  float* scaled = scaled_.data() + r / tile_rows * tile_rows * dim_ + r % tile_rows;
  double norm2 = 0.0;
  for (int64_t d = 0; d < dim_; ++d) {
    const double x = (z[d] - packed_.centre[d]) * packed_.scale;
    norm2 += x * x;
    scaled[d * tile_rows] = static_cast<float>(x);
  }
  const double norm = std::sqrt(norm2);
  if (kinds_[r] == RowKind::kNotFinite || !(norm <= kMostRowNorm)) return shut(r);
  kinds_[r] = RowKind::kScreened;
  RowScreen& row = screens_[r];
  row.margin = args_.exact ? screen_margin(dim_, norm, packed_.max_norm) : -1.0;
  row.best = FLT_MAX;
  row.limit = FLT_MAX;
  row.overflow = false;
  row.num_candidates = 0;
}

// Makes a row one that takes part in the screen only to fill its tile.
void BlockSearch::shut(int64_t r) {
  const int64_t tile_rows = kernels_.tile_rows;
  float* scaled = scaled_.data() + r / tile_rows * tile_rows * dim_ + r % tile_rows;
  for (int64_t d = 0; d < dim_; ++d) scaled[d * tile_rows] = 0.0f;
  screens_[r].limit = -FLT_MAX;
}

void BlockSearch::screen(int64_t num_rows, int64_t first_code, int64_t last_code) {
  const int64_t tile_rows = kernels_.tile_rows;
  const int64_t num_tiles = (num_rows + tile_rows - 1) / tile_rows;
  for (int64_t r = num_rows; r < num_tiles * tile_rows; ++r) shut(r);
  const int64_t end_panel = (last_code + kPanelCodes - 1) / kPanelCodes;
  const int64_t group = std::max<int64_t>(1, kGroupFloats / (kPanelCodes * dim_));
  for (int64_t p = first_code / kPanelCodes; p < end_panel; p += group) {
    for (int64_t t = 0; t < num_tiles; ++t) {
      RowScreen* rows[kMaxTileRows];
      for (int64_t r = 0; r < tile_rows; ++r) rows[r] = &screens_[t * tile_rows + r];
      kernels_.screen(scaled_.data() + t * tile_rows * dim_, dim_,
                      packed_.panels.get() + p * kPanelCodes * dim_,
                      packed_.half_norms.get() + p * kPanelCodes, std::min(group, end_panel - p),
                      p * kPanelCodes, rows);
    }
  }
}

// Measures in fp64 what the screen left, kPairs pairs of any rows at a time.
void BlockSearch::measure_candidates(int64_t num_rows, Nearest* found) {
  num_pairs_ = 0;
  for (int64_t r = 0; r < num_rows; ++r) {
    if (kinds_[r] != RowKind::kScreened) continue;
    RowScreen& row = screens_[r];
    if (row.overflow) {
      kinds_[r] = RowKind::kDirect;
      continue;
    }
    drop_candidates_above_limit(&row);
    if (row.num_candidates == 1 && !need_distances_) {
      found[r].index = row.candidates[0].code;
      continue;
    }
    for (int i = 0; i < row.num_candidates; ++i) {
      pair_row_[num_pairs_] = r;
      pair_code_[num_pairs_] = row.candidates[i].code;
      if (++num_pairs_ == kPairs) measure_pairs(found);
    }
  }
  measure_pairs(found);
}

void BlockSearch::measure_pairs(Nearest* found) {
  if (num_pairs_ == 0) return;
  const double* z[kPairs];
  const double* e[kPairs];
  double distances[kPairs];
  for (int i = 0; i < kPairs; ++i) {
    const int source = std::min(i, num_pairs_ - 1);
    if (i == source) load_rows(args_.codebook, pair_code_[i], 1, dim_, codes_.data() + i * dim_);
    z[i] = z_.data() + pair_row_[source] * dim_;
    e[i] = codes_.data() + source * dim_;
  }
  kernels_.pair_distances(z, e, dim_, distances);
  for (int i = 0; i < num_pairs_; ++i) found[pair_row_[i]].offer(distances[i], pair_code_[i]);
  num_pairs_ = 0;
}

// Measures every code of the range in fp64 for the rows that need it.
void BlockSearch::scan_direct(int64_t num_rows, int64_t first_code, int64_t last_code,
                              Nearest* found) {
  direct_rows_.clear();
  for (int64_t r = 0; r < num_rows; ++r) {
    if (kinds_[r] == RowKind::kDirect) direct_rows_.push_back(r);
  }
  const int64_t num_direct = direct_rows_.size();
  if (num_direct == 0) return;
  for (int64_t k = first_code; k < last_code; k += kDirectCodes) {
    const int64_t count = std::min<int64_t>(kDirectCodes, last_code - k);
    load_rows(args_.codebook, k, count, dim_, codes_.data());
    for (int64_t d = 0; d < dim_; ++d) {
      for (int64_t lane = 0; lane < kDirectCodes; ++lane) {
        code_lanes_[d * kDirectCodes + lane] = codes_[std::min(lane, count - 1) * dim_ + d];
      }
    }
    for (int64_t i = 0; i < num_direct; i += kDirectRows) {
      const double* z[kDirectRows];
      for (int64_t r = 0; r < kDirectRows; ++r) {
        z[r] = z_.data() + direct_rows_[std::min(i + r, num_direct - 1)] * dim_;
      }
      double distances[kDirectRows * kDirectCodes];
      kernels_.block_distances(z, code_lanes_.data(), dim_, distances);
      for (int64_t r = 0; r < std::min<int64_t>(kDirectRows, num_direct - i); ++r) {
        Nearest& nearest = found[direct_rows_[i + r]];
        for (int64_t lane = 0; lane < count; ++lane) {
          nearest.offer(distances[r * kDirectCodes + lane], k + lane);
        }
      }
    }
  }
}

}  // namespace vqgan_fast
