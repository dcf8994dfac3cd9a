#include "kernels/cpu/int8_worker.h"

#include <algorithm>
#include <limits>

namespace vqgan_fast {
namespace {

constexpr int32_t kMostScore = std::numeric_limits<int32_t>::max();
// Vectors of minima of one row.
constexpr int64_t kMinima = kMarkedVectors / kMinimaVectors;
// The first limits come from one in so many panels, but from a few at least, of all parts of the
// codebook: it may be in order.
constexpr int64_t kShareSampled = 32, kLeastSampled = 4;
// Marked codes are measured if they are at most one in so many of all, or few.
constexpr int64_t kShareMarked = 8, kFewMarked = 64, kMostMarked = 1024;
// Another screen is faster where one in so many rows stays open; fewer rows do not tell.
constexpr int64_t kShareOpen = 3, kRowsToTell = 32;
// So it is where rows have more than one in so many codes to measure, and so many, on the mean.
constexpr int64_t kShareListed = 32, kManyListed = 32;

}  // namespace

Int8Worker::Int8Worker(const QuantisedCodebook& codebook, const QuantisedKernels& kernels,
                       int64_t most_rows)
    : codebook_(codebook),
      kernels_(kernels),
      quantised_(codebook, kernels, most_rows, 0),
      minima_(allocate_array<int32_t>(most_rows * kMinima * kernels.lanes)),
      scales_(most_rows),
      rows_(most_rows) {}

bool Int8Worker::outdone() const {
  const int64_t many = std::max(codebook_.num_codes / kShareListed, kManyListed);
  return rows_seen_ >= kRowsToTell &&
         (rows_open_ * kShareOpen > rows_seen_ || codes_listed_ > rows_seen_ * many);
}

void Int8Worker::drop_above_limits() {
  for (int64_t r = 0; r < num_rows_; ++r) rows_[r].count = 0;
  const MarkedCode* next = marked_.data();
  MarkedCode* kept = marked_.data();
  size_t num_runs = 0;
  for (const Run& run : runs_) {
    MarkedCode* const first_kept = kept;
    for (const MarkedCode* end = next + run.count; next != end; ++next) {
      const MarkedCode code = *next;
      *kept = code;
      kept += wanted_[run.row] && code.score <= limits_[run.row];
    }
    if (kept == first_kept) continue;
    rows_[run.row].count += kept - first_kept;
    runs_[num_runs++] = {run.row, kept - first_kept};
  }
  runs_.resize(num_runs);
  num_marked_ = kept - marked_.data();
}

void Int8Worker::collect(int64_t r, int64_t first_code) {
  const int64_t most = kMarkedVectors * kernels_.lanes;
  if (static_cast<int64_t>(marked_.size()) < num_marked_ + most) {
    marked_.resize(2 * (num_marked_ + most));
  }
  MarkedCode* const begin = marked_.data() + num_marked_;
  MarkedCode* const end =
      kernels_.collect(minima_.get() + r * kMinima * kernels_.lanes, quantised_.marks_of(r),
                       static_cast<int32_t>(first_code), rows_[r].margin, limits_ + r, begin);
  if (end == begin) return;
  runs_.push_back({r, end - begin});
  num_marked_ += end - begin;
  rows_[r].count += end - begin;
}

void Int8Worker::mark(int64_t first_panel, int64_t num_panels, const int32_t* limits, bool anew) {
  const int64_t stride = kMinima * kernels_.lanes;
  quantised_.mark(num_rows_, first_panel, num_panels, limits, wanted_,
                  [&](QuantisedTile* tile, int64_t r) {
                    tile->minima = minima_.get() + r * stride;
                    tile->minima_stride = stride;
                    if (!anew || tile->first_tag > 0) return;
                    std::fill_n(tile->minima, tile->num_rows * stride, kMostScore);
                  });
}

void Int8Worker::prepare(const double* z, int64_t num_rows, RowCandidates* out) {
  int first_shift = std::numeric_limits<int>::max(), last_shift = -1;
  for (int64_t r = 0; r < num_rows; ++r) {
    scales_[r] = quantised_.scale_of(z + r * codebook_.dim);
    out[r].count = 0;
    out[r].many.clear();
    out[r].open = true;
    if (scales_[r].shift < 0) continue;
    first_shift = std::min(first_shift, scales_[r].shift);
    last_shift = std::max(last_shift, scales_[r].shift);
  }
  num_rows_ = num_marked_ = 0;
  runs_.clear();
  // Rows of one shift side by side: kernels shift the norms once for all rows of a tile.
  for (int shift = first_shift; shift <= last_shift; ++shift) {
    for (int64_t r = 0; r < num_rows; ++r) {
      if (scales_[r].shift != shift) continue;
      Row& row = rows_[num_rows_];
      row.number = r;
      row.margin = quantised_.quantise(z + r * codebook_.dim, scales_[r], num_rows_);
      row.count = 0;
      if (row.margin < 0) continue;
      out[r].open = false;
      limits_[num_rows_++] = kMostScore;
    }
  }
}

void Int8Worker::run(const double* z, int64_t num_rows, int64_t first_panel, int64_t last_panel,
                     RowCandidates* out) {
  prepare(z, num_rows, out);
  if (num_rows_ == 0) return;
  const int64_t num_panels = last_panel - first_panel;
  const int64_t most =
      std::clamp(num_panels * codebook_.panel_codes / kShareMarked, kFewMarked, kMostMarked);
  std::fill_n(wanted_, num_rows_, true);
  // The first limits come from some codes, of which none is marked.
  int32_t none[CodeScreen::kMostRows];
  std::fill_n(none, num_rows_, std::numeric_limits<int32_t>::min());
  const int64_t segment = quantised_.most_panels_to_mark();
  const int64_t sample =
      std::min({std::max(num_panels / kShareSampled, kLeastSampled), segment, num_panels});
  for (int64_t i = 0; i < sample; ++i) {
    mark(first_panel + i * num_panels / sample, 1, none, i == 0);
  }
  for (int64_t r = 0; r < num_rows_; ++r) collect(r, 0);
  for (int64_t p = 0; p < num_panels; p += segment) {
    mark(first_panel + p, std::min(segment, num_panels - p), limits_, true);
    bool too_many = false;
    for (int64_t r = 0; r < num_rows_; ++r) {
      if (!wanted_[r]) continue;
      collect(r, (first_panel + p) * codebook_.panel_codes);
      too_many |= rows_[r].count > most;
    }
    if (!too_many) continue;
    drop_above_limits();
    for (int64_t r = 0; r < num_rows_; ++r) wanted_[r] &= rows_[r].count <= most;
  }
  drop_above_limits();
  const MarkedCode* next = marked_.data();
  for (const Run& run : runs_) {
    std::vector<int64_t>& codes = out[rows_[run.row].number].many;
    for (const MarkedCode* end = next + run.count; next != end; ++next) codes.push_back(next->code);
  }
  // What came before counts half, and half of that with each block.
  rows_seen_ = rows_seen_ / 2 + num_rows_;
  rows_open_ /= 2;
  codes_listed_ = codes_listed_ / 2 + num_marked_;
  for (int64_t r = 0; r < num_rows_; ++r) {
    RowCandidates& row = out[rows_[r].number];
    row.open = !wanted_[r];
    if (!row.open) quantised_.take_list(&row);
    rows_open_ += row.open;
  }
}

}  // namespace vqgan_fast
