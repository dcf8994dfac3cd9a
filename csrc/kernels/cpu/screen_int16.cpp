// The int16 screen: rows and codes are scaled to int16, so that a CPU multiplies two or four times
// as many of them in an instruction as it does fp32, and products add up without any rounding. All
// error is that of quantising, which is measured. docs/numerics.md, "The int16 screen", derives it.
#include "kernels/cpu/screen_int16.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/cpu/int16_codebook.h"
#include "kernels/cpu/nearest_code_screen.h"

namespace vqgan_fast {
namespace {

constexpr int64_t kMostDim = 16384;
// Panels that stay in the first-level cache while the rows of a block pass over them.
constexpr int64_t kGroupBytes = 16384;
// A codebook that needs no fetching ahead: the second-level cache has it, or nearly.
constexpr int64_t kNearBytes = 1 << 20;
// The largest norm of a row, in those of codes, is about 2^(kMostShift - 1).
constexpr int kMostShift = 30;
constexpr int32_t kMostScore = std::numeric_limits<int32_t>::max();

const ScreenInt16Kernels& kernels_for(SimdLevel level) {
  (void)level;
#ifdef VQGAN_FAST_HAS_SCREEN_INT16_AVX512VNNI
  if (level >= SimdLevel::kAvx512Vnni) return kScreenInt16Avx512Vnni;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_INT16_AVX512
  if (level >= SimdLevel::kAvx512) return kScreenInt16Avx512;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_INT16_AVX2
  if (level >= SimdLevel::kAvx2) return kScreenInt16Avx2;
#endif
  return kScreenInt16Baseline;
}

// What the screen knows of one row.
struct RowState {
  int64_t row;
  int64_t margin;
  int32_t smallest;  // score so far
  int32_t limit;     // the smallest one plus margin
  int32_t loser;     // smallest score whose code is not among the candidates
  int count;
  int32_t scores[RowCandidates::kMost];
  int64_t codes[RowCandidates::kMost];

  void drop_above_limit() {
    int kept = 0;
    for (int i = 0; i < count; ++i) {
      if (scores[i] > limit) continue;
      scores[kept] = scores[i];
      codes[kept++] = codes[i];
    }
    count = kept;
  }
};

class Int16Worker final : public CodeScreen::Worker {
 public:
  Int16Worker(const Int16Codebook& codebook, const ScreenInt16Kernels& kernels)
      : codebook_(codebook),
        kernels_(kernels),
        row_stride_((codebook.num_pairs * 2 + 31) / 32 * 32),
        quantised_(allocate_array<int16_t>(CodeScreen::kMostRows * row_stride_)),
        state_(allocate_array<int32_t>(CodeScreen::kMostRows * 2 * kernels.lanes)),
        rows_(CodeScreen::kMostRows) {
    std::fill_n(quantised_.get(), CodeScreen::kMostRows * row_stride_, int16_t{0});
  }

  void run(const double* z, int64_t num_rows, int64_t first_panel, int64_t last_panel,
           RowCandidates* out) override;

 private:
  bool prepare(const double* z, int64_t r);
  void screen(int64_t first_panel, int64_t num_panels);
  void collect(int64_t r, int64_t first_panel);
  void finish(RowState* row, RowCandidates* out) const;

  const Int16Codebook& codebook_;
  const ScreenInt16Kernels& kernels_;
  const int64_t row_stride_;
  int64_t num_rows_ = 0;  // that have a bound
  AlignedArray<int16_t> quantised_;
  AlignedArray<int32_t> state_;
  int32_t shifts_[CodeScreen::kMostRows];
  std::vector<RowState> rows_;
};

// Quantises a row as the r-th one; false if there is no bound for it.
bool Int16Worker::prepare(const double* z, int64_t r) {
  const int64_t dim = codebook_.dim;
  const double norm = std::sqrt(kernels_.norm2(z, codebook_.centre.data(), dim)) * codebook_.scale;
  int shift = 0;
  double power = 2.0;
  for (; !(power * norm <= codebook_.most_norm); power *= 0.5) {
    if (++shift > kMostShift) return false;
  }
  const double residual =
      std::sqrt(kernels_.quantise(z, codebook_.centre.data(), -power * codebook_.scale, dim,
                                  quantised_.get() + r * row_stride_));
  shifts_[r] = shift;

  const double row_norm = power * norm, code_norm = codebook_.most_norm;
  const double quantising =
      residual * (code_norm + codebook_.max_residual) + row_norm * codebook_.max_residual;
  const double error = quantising * (1.0 + 0x1p-30) + 2.0 + kInt16TagMask;
  const double definition =
      (dim + 8) * 0x1p-53 / power * (row_norm + power * code_norm) * (row_norm + power * code_norm);
  const double margin = 2.0 * error + definition;
  if (!(margin < 0x1p30)) return false;
  RowState& row = rows_[r];
  row.margin = static_cast<int64_t>(margin) + 1;
  row.smallest = row.limit = row.loser = kMostScore;
  row.count = 0;
  return true;
}

void Int16Worker::run(const double* z, int64_t num_rows, int64_t first_panel, int64_t last_panel,
                      RowCandidates* out) {
  num_rows_ = 0;
  for (int64_t r = 0; r < num_rows; ++r) {
    out[r].count = 0;
    out[r].open = !prepare(z + r * codebook_.dim, num_rows_);
    if (!out[r].open) rows_[num_rows_++].row = r;
  }
  if (num_rows_ == 0) return;
  // As many panels as there are tags.
  const int64_t segment = (kInt16TagMask + 1) / kernels_.vectors;
  for (int64_t p = first_panel; p < last_panel; p += segment) {
    std::fill_n(state_.get(), num_rows_ * 2 * kernels_.lanes, kMostScore);
    screen(p, std::min(segment, last_panel - p));
    for (int64_t r = 0; r < num_rows_; ++r) collect(r, p);
  }
  for (int64_t r = 0; r < num_rows_; ++r) finish(&rows_[r], out + rows_[r].row);
}

void Int16Worker::screen(int64_t first_panel, int64_t num_panels) {
  const int64_t panel_codes = codebook_.panel_codes, num_pairs = codebook_.num_pairs;
  const int64_t panel_bytes = panel_codes * num_pairs * 2 * sizeof(int16_t);
  const int64_t group = std::max<int64_t>(1, kGroupBytes / panel_bytes);
  const bool far = codebook_.num_panels * panel_bytes > kNearBytes;
  Int16Tile tile;
  tile.row_stride = row_stride_;
  tile.num_pairs = num_pairs;
  for (int64_t p = 0; p < num_panels; p += group) {
    tile.num_panels = std::min(group, num_panels - p);
    tile.codes = codebook_.codes.get() + (first_panel + p) * panel_codes * num_pairs * 2;
    tile.norms = codebook_.norms.get() + (first_panel + p) * panel_codes;
    tile.first_tag = static_cast<int32_t>(p * kernels_.vectors);
    // Each tile asks for its share of the next group, for that to be near when its turn comes.
    const char* next = reinterpret_cast<const char*>(tile.codes) + tile.num_panels * panel_bytes;
    const int64_t share = far ? tile.num_panels * panel_bytes * kernels_.tile_rows / num_rows_ : 0;
    for (int64_t r = 0; r < num_rows_; r += kernels_.tile_rows) {
      for (int64_t i = 0; i < share; i += 64) __builtin_prefetch(next + i, 0, 2);
      next += share;
      tile.num_rows = static_cast<int>(std::min<int64_t>(kernels_.tile_rows, num_rows_ - r));
      tile.rows = quantised_.get() + r * row_stride_;
      tile.shifts = shifts_ + r;
      tile.state = state_.get() + r * 2 * kernels_.lanes;
      kernels_.screen(tile);
    }
  }
}

// Takes up what the lanes of a row hold after a segment that began with first_panel.
void Int16Worker::collect(int64_t r, int64_t first_panel) {
  RowState& row = rows_[r];
  const int lanes = kernels_.lanes;
  const int32_t* best = state_.get() + r * 2 * lanes;
  row.loser = std::min(row.loser, kernels_.smallest(best + lanes));
  const int32_t smallest = kernels_.smallest(best);
  if (smallest > row.limit) return;
  if (smallest < row.smallest) {
    row.smallest = smallest;
    row.limit = static_cast<int32_t>(std::min<int64_t>(smallest + row.margin, kMostScore));
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

void Int16Worker::finish(RowState* row, RowCandidates* out) const {
  row->drop_above_limit();
  out->open = row->loser <= row->limit;
  for (int i = 0; i < row->count; ++i) {
    if (codebook_.norms[row->codes[i]] == kInt16NoCode) out->open = true;
    out->codes[i] = row->codes[i];
  }
  out->count = out->open ? 0 : row->count;
}

class ScreenInt16 final : public CodeScreen {
 public:
  ScreenInt16(std::unique_ptr<const Int16Codebook> codebook, const ScreenInt16Kernels& kernels)
      : codebook_(std::move(codebook)), kernels_(kernels) {}

  std::unique_ptr<Worker> worker() const override {
    return std::make_unique<Int16Worker>(*codebook_, kernels_);
  }
  size_t bytes() const override {
    const int64_t code_bytes = codebook_->num_pairs * 2 * sizeof(int16_t) + sizeof(int32_t);
    return codebook_->num_panels * codebook_->panel_codes * code_bytes +
           codebook_->dim * sizeof(double) + sizeof(Int16Codebook) + sizeof(ScreenInt16);
  }
  int64_t num_panels() const override { return codebook_->num_panels; }

 private:
  const std::unique_ptr<const Int16Codebook> codebook_;
  const ScreenInt16Kernels& kernels_;
};

}  // namespace

std::shared_ptr<const CodeScreen> make_screen_int16(const CodeSource& codes, SimdLevel level,
                                                    const Parallel& parallel) {
  if (codes.num_codes < 1 || codes.dim < 1 || codes.dim > kMostDim) return nullptr;
  const ScreenInt16Kernels& kernels = kernels_for(level);
  auto packed = pack_int16_codebook(codes, kernels, parallel);
  if (packed == nullptr) return nullptr;
  return std::make_shared<ScreenInt16>(std::move(packed), kernels);
}

}  // namespace vqgan_fast
