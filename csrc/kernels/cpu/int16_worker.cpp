#include "kernels/cpu/int16_worker.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace vqgan_fast {
namespace {

// Where a quarter of a block is open, the codes of these rows are marked.
constexpr int64_t kShareToMark = 4;
// Where half of a block was open, so many blocks take their limits from an eighth of the codes;
// where marks left half of that open, as many are not marked.
constexpr int64_t kBlocksToMark = 16, kShareSampled = 8;
// Marked codes are measured if they are at most so many, and at most one in one_in(..) of all. From
// there on the direct search, which takes codes as they lie, is faster than measuring them one by
// one: the sooner, the shorter they are; beside products of bytes, late.
constexpr int64_t kMostMarked = 1024;
int64_t one_in(QuantisedLayout layout, int64_t dim) {
  return layout == QuantisedLayout::kBytes ? 8 : 8 + 256 / dim;
}

}  // namespace

Int16Worker::Int16Worker(const QuantisedCodebook& codebook, const QuantisedKernels& kernels,
                         int64_t most_rows)
    : codebook_(codebook),
      kernels_(kernels),
      quantised_(codebook, kernels, most_rows, kInt16TagMask),
      state_(allocate_array<int32_t>(most_rows * 2 * kernels.lanes)),
      rows_(most_rows) {}

void Int16Worker::Row::drop_above_limit() {
  int kept = 0;
  for (int i = 0; i < count; ++i) {
    if (scores[i] > limit) continue;
    scores[kept] = scores[i];
    codes[kept++] = codes[i];
  }
  count = kept;
}

int32_t Int16Worker::bias_of(int shift) const {
  const double most = codebook_.most_quantised;
  const double product = most * most * std::min(std::ldexp(1.0, shift - 2), 1.0);
  const double low = kernels_.layout == QuantisedLayout::kBytes ? codebook_.dim * 0x1p14 : 0.0;
  const double rounding = std::sqrt(codebook_.dim) * most + low;
  return static_cast<int32_t>((product + rounding) / codebook_.unit) + 4 + kInt16LeastScore;
}

bool Int16Worker::prepare(const double* z, double within2, int64_t r) {
  const QuantisedRows::Scale scale = quantised_.scale_of(z);
  const int64_t margin = scale.shift < 0 ? -1 : quantised_.quantise(z, scale, r);
  if (margin < 0) return false;
  biases_[r] = bias_of(scale.shift);
  Row& row = rows_[r];
  row.scale = scale;
  row.margin = margin;
  const double most = quantised_.most_score(scale, margin, within2) + biases_[r];
  row.limit = static_cast<int32_t>(std::clamp<double>(most, 0, kInt16MostScore));
  row.smallest = row.loser = kInt16MostScore;
  row.count = 0;
  return true;
}

void Int16Worker::run(const double* z, int64_t num_rows, int64_t first_panel, int64_t last_panel,
                      RowCandidates* out) {
  num_rows_ = 0;
  for (int64_t r = 0; r < num_rows; ++r) {
    out[r].count = 0;
    out[r].many.clear();
    out[r].open = !prepare(z + r * codebook_.dim, out[r].within2, num_rows_);
    if (!out[r].open) rows_[num_rows_++].number = r;
  }
  if (num_rows_ == 0) return;
  screen_and_mark(first_panel, last_panel - first_panel, out);
  for (int64_t r = 0; r < num_rows_; ++r) {
    const Row& row = rows_[r];
    RowCandidates& candidates = out[row.number];
    if (candidates.open || (candidates.count == 0 && candidates.many.empty())) continue;
    const double score = static_cast<double>(row.smallest) - biases_[r];
    candidates.within2 =
        std::min(candidates.within2, quantised_.most_distance2(row.scale, row.margin, score));
  }
}

void Int16Worker::screen_and_mark(int64_t first_panel, int64_t num_panels, RowCandidates* out) {
  const auto num_open = [&] {
    return std::count_if(rows_.begin(), rows_.begin() + num_rows_,
                         [&](const Row& row) { return out[row.number].open; });
  };
  if (blocks_to_mark_ > 0) {
    // Another eighth for each block: one may be unlike the rest.
    const int64_t sample = (num_panels + kShareSampled - 1) / kShareSampled;
    const int64_t skipped = --blocks_to_mark_ % kShareSampled * sample;
    screen(first_panel + std::min(skipped, num_panels - sample), sample);
    mark(first_panel, num_panels, false, out);
    if (num_open() * 2 > num_rows_) blocks_to_mark_ = 0;
    return;
  }
  screen(first_panel, num_panels);
  for (int64_t r = 0; r < num_rows_; ++r) finish(&rows_[r], out + rows_[r].number);
  const int64_t before = num_open();
  if (codebook_.dim < kernels_.least_dim_to_mark || before * kShareToMark < num_rows_) return;
  if (blocks_not_to_mark_ > 0) {
    --blocks_not_to_mark_;
    return;
  }
  mark(first_panel, num_panels, true, out);
  const int64_t after = num_open();
  if (before * 2 > num_rows_ && after * 2 <= num_rows_) {
    blocks_to_mark_ = kBlocksToMark;
  } else if (after * 2 > before) {
    blocks_not_to_mark_ = kBlocksToMark;
  }
}

void Int16Worker::screen(int64_t first_panel, int64_t num_panels) {
  // As many panels as there are tags.
  const int64_t segment = (kInt16TagMask + 1) / kernels_.vectors;
  for (int64_t p = 0; p < num_panels; p += segment) {
    std::fill_n(state_.get(), num_rows_ * 2 * kernels_.lanes, kInt16MostScore);
    quantised_.for_each_tile(num_rows_, first_panel + p, std::min(segment, num_panels - p),
                             [&](QuantisedTile* tile, int64_t r) {
                               tile->biases = biases_ + r;
                               tile->state = state_.get() + r * 2 * kernels_.lanes;
                               kernels_.screen(*tile);
                             });
    for (int64_t r = 0; r < num_rows_; ++r) collect(r, first_panel + p);
  }
}

void Int16Worker::collect(int64_t r, int64_t first_panel) {
  Row& row = rows_[r];
  const int lanes = kernels_.lanes;
  const int32_t* best = state_.get() + r * 2 * lanes;
  row.loser = std::min(row.loser, kernels_.smallest(best + lanes));
  const int32_t smallest = kernels_.smallest(best);
  if (smallest > row.limit) return;
  if (smallest < row.smallest) {
    row.smallest = smallest;
    row.limit = static_cast<int32_t>(std::min<int64_t>(smallest + row.margin, row.limit));
  }
  for (uint32_t bits = kernels_.within(best, row.limit); bits != 0; bits &= bits - 1) {
    const int lane = __builtin_ctz(bits);
    if (row.count == RowCandidates::kMost) row.drop_above_limit();
    if (row.count == RowCandidates::kMost) {
      row.loser = std::min(row.loser, best[lane]);
      continue;
    }
    const int64_t vector = first_panel * kernels_.vectors + (best[lane] & kInt16TagMask);
    row.scores[row.count] = best[lane];
    row.codes[row.count++] = vector * lanes + lane;
  }
}

void Int16Worker::finish(Row* row, RowCandidates* out) const {
  row->drop_above_limit();
  out->open = row->loser <= row->limit;
  for (int i = 0; i < row->count; ++i) {
    if (codebook_.norms[row->codes[i]] == kNoCodeNorm) out->open = true;
    out->codes[i] = row->codes[i];
  }
  out->count = out->open ? 0 : row->count;
}

void Int16Worker::mark(int64_t first_panel, int64_t num_panels, bool only_open,
                       RowCandidates* out) {
  const int64_t num_codes = num_panels * codebook_.panel_codes;
  const int64_t most = std::clamp<int64_t>(num_codes / one_in(kernels_.layout, codebook_.dim),
                                           4 * RowCandidates::kMost, kMostMarked);
  int32_t limits[CodeScreen::kMostRows];
  bool wanted[CodeScreen::kMostRows];
  for (int64_t r = 0; r < num_rows_; ++r) {
    const RowCandidates& row = out[rows_[r].number];
    limits[r] = rows_[r].limit;
    wanted[r] = row.open || !only_open;
  }
  const int64_t segment = quantised_.most_panels_to_mark();
  for (int64_t p = 0; p < num_panels; p += segment) {
    quantised_.mark(num_rows_, first_panel + p, std::min(segment, num_panels - p), limits, wanted,
                    [&](QuantisedTile* tile, int64_t r) { tile->biases = biases_ + r; });
    for (int64_t r = 0; r < num_rows_; ++r) {
      if (!wanted[r]) continue;
      RowCandidates& row = out[rows_[r].number];
      take_marks(quantised_.marks_of(r), (first_panel + p) * codebook_.panel_codes, &row.many);
      if (static_cast<int64_t>(row.many.size()) <= most) continue;
      std::vector<int64_t>().swap(row.many);
      row.open = true;
      wanted[r] = false;
    }
  }
  for (int64_t r = 0; r < num_rows_; ++r) {
    if (wanted[r]) quantised_.take_list(out + rows_[r].number);
  }
}

// Appends the codes that the marks of a row stand for, the first of which is first_code.
void Int16Worker::take_marks(const uint16_t* marks, int64_t first_code,
                             std::vector<int64_t>* codes) const {
  constexpr int64_t kAtOnce = sizeof(uint64_t) / sizeof(uint16_t);
  for (int64_t v = 0; v < kMarkedVectors; v += kAtOnce) {
    uint64_t any;
    std::memcpy(&any, marks + v, sizeof any);
    if (any == 0) continue;
    for (int64_t i = v; i < v + kAtOnce; ++i) {
      for (uint32_t bits = marks[i]; bits != 0; bits &= bits - 1) {
        codes->push_back(first_code + i * kernels_.lanes + __builtin_ctz(bits));
      }
    }
  }
}

}  // namespace vqgan_fast
