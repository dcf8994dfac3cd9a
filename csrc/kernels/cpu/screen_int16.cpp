// The int16 screen: rows and codes are scaled to int16, so that a CPU multiplies two or four times
// as many of them in an instruction as it does fp32, and products add up without any rounding. All
// error is that of quantising, which is measured. docs/numerics.md, "The int16 screen", derives it.
#include "kernels/cpu/screen_int16.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>
#include <utility>
#include <vector>

#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/nearest_code_screen.h"
#include "kernels/cpu/row_block.h"

namespace vqgan_fast {
namespace {

constexpr int64_t kMostDim = 16384;
constexpr int64_t kMostCodes = int64_t{1} << 40;
// Panels that stay in the first-level cache while the rows of a block pass over them.
constexpr int64_t kGroupBytes = 16384;
// Beyond these the fp64 sums of the definition itself may underflow or overflow.
constexpr double kLeastNorm = 0x1p-400;
constexpr double kMostNorm = 0x1p400;
// The largest norm of a row, in those of codes, is about 2^(kMostShift - 1).
constexpr int kMostShift = 30;
// Stands for the squared norm of a code that is not finite, and behind the last code. Divided like
// a norm it need not exceed every score: a row that finds it within its limit is open.
constexpr int32_t kNoCode = std::numeric_limits<int32_t>::max();
constexpr int32_t kMostScore = std::numeric_limits<int32_t>::max();

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};
template <class T>
using Lines = std::unique_ptr<T[], FreeDeleter>;

template <class T>
Lines<T> allocate_lines(int64_t count) {
  constexpr size_t kLine = 64;
  const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + kLine - 1) / kLine * kLine;
  auto* memory = static_cast<T*>(std::aligned_alloc(kLine, bytes));
  if (memory == nullptr) throw std::bad_alloc();
  return Lines<T>(memory);
}

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

// The mean of up to 256 codes spread over the codebook: norms are small about it.
std::vector<double> find_centre(const Rows& codebook, int64_t num_codes, int64_t dim) {
  const int64_t samples = std::min<int64_t>(num_codes, 256);
  std::vector<double> centre(dim, 0.0), code(dim);
  int64_t taken = 0;
  for (int64_t i = 0; i < samples; ++i) {
    load_rows(codebook, i * num_codes / samples, 1, dim, code.data());
    if (!all_finite(code.data(), dim)) continue;
    ++taken;
    for (int64_t d = 0; d < dim; ++d) centre[d] += code[d];
  }
  for (double& c : centre) {
    c /= std::max<int64_t>(taken, 1);
    if (!std::isfinite(c)) c = 0.0;
  }
  return centre;
}

class ScreenInt16 final : public CodeScreen {
 public:
  ScreenInt16(int64_t num_codes, int64_t dim, SimdLevel level)
      : kernels_(kernels_for(level)),
        num_codes_(num_codes),
        dim_(dim),
        num_pairs_((dim + 1) / 2),
        panel_codes_(kernels_.vectors * kernels_.lanes),
        num_panels_((num_codes + panel_codes_ - 1) / panel_codes_),
        codes_(allocate_lines<int16_t>(num_panels_ * panel_codes_ * num_pairs_ * 2)),
        norms_(allocate_lines<int32_t>(num_panels_ * panel_codes_)),
        most_norm_(32766.0 - 0.5 * std::sqrt(dim)) {}

  bool pack(const Rows& codebook, const Parallel& parallel);
  std::unique_ptr<Worker> worker() const override;
  size_t bytes() const override {
    return static_cast<size_t>(num_panels_ * panel_codes_) *
               (num_pairs_ * 2 * sizeof(int16_t) + sizeof(int32_t)) +
           centre_.size() * sizeof(double) + sizeof(*this);
  }
  int64_t num_panels() const override { return num_panels_; }

 private:
  friend class Int16Worker;
  bool find_scale(const Rows& codebook, const Parallel& parallel, std::vector<double>* norms2);

  const ScreenInt16Kernels& kernels_;
  const int64_t num_codes_, dim_, num_pairs_, panel_codes_, num_panels_;
  Lines<int16_t> codes_;
  Lines<int32_t> norms_;
  const double most_norm_;  // of a scaled vector: a quantised one has at most 32767
  std::vector<double> centre_;
  double scale_ = 1.0;         // codes are quantised after (e - centre) * scale
  double max_norm_ = 0.0;      // largest norm of a scaled code
  double max_residual_ = 0.0;  // largest norm of what quantising changed in one
};

// Writes squared norms of the codes (infinity for one that is not finite), and from the largest the
// scale. False if there is none.
bool ScreenInt16::find_scale(const Rows& codebook, const Parallel& parallel,
                             std::vector<double>* norms2) {
  std::vector<double> panel_norm2(num_panels_, 0.0);
  const int64_t grain = std::max<int64_t>(1, 16384 / (panel_codes_ * dim_));
  parallel.run(0, num_panels_, grain, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    std::vector<double> codes(panel_codes_ * dim_);
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = p * panel_codes_;
      const int64_t count = std::min(panel_codes_, num_codes_ - first);
      load_rows(codebook, first, count, dim_, codes.data());
      for (int64_t k = 0; k < count; ++k) {
        const double* code = codes.data() + k * dim_;
        double norm2 = kernels_.norm2(code, centre_.data(), dim_);
        if (!std::isfinite(norm2) && !all_finite(code, dim_)) {
          norm2 = std::numeric_limits<double>::infinity();
        } else {
          // Finite codes whose norms overflow make the largest norm one that no screen takes.
          panel_norm2[p] = std::max(panel_norm2[p], std::isfinite(norm2) ? norm2 : HUGE_VAL);
        }
        (*norms2)[first + k] = norm2;
      }
    }
  });
  const double norm = std::sqrt(*std::max_element(panel_norm2.begin(), panel_norm2.end()));
  if (!(norm >= kLeastNorm && norm <= kMostNorm)) return false;
  scale_ = most_norm_ / norm;
  max_norm_ = norm * scale_;
  return true;
}

bool ScreenInt16::pack(const Rows& codebook, const Parallel& parallel) {
  centre_ = find_centre(codebook, num_codes_, dim_);
  std::vector<double> norms2(num_codes_);
  if (!find_scale(codebook, parallel, &norms2)) return false;

  std::vector<double> panel_residual2(num_panels_, 0.0);
  const int64_t grain = std::max<int64_t>(1, 16384 / (panel_codes_ * dim_));
  parallel.run(0, num_panels_, grain, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    std::vector<double> codes(panel_codes_ * dim_);
    std::vector<int16_t> quantised(panel_codes_ * num_pairs_ * 2);
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = p * panel_codes_;
      const int64_t count = std::min(panel_codes_, num_codes_ - first);
      load_rows(codebook, first, count, dim_, codes.data());
      for (int64_t k = 0; k < panel_codes_; ++k) {
        int16_t* q = quantised.data() + k * num_pairs_ * 2;
        q[num_pairs_ * 2 - 1] = 0;  // where dim is odd
        if (k >= count || !std::isfinite(norms2[first + k])) {
          std::fill(q, q + num_pairs_ * 2, int16_t{0});
          norms_[first + k] = kNoCode;
          continue;
        }
        const double residual2 =
            kernels_.quantise(codes.data() + k * dim_, centre_.data(), scale_, dim_, q);
        panel_residual2[p] = std::max(panel_residual2[p], residual2);
        norms_[first + k] = std::lrint(norms2[first + k] * scale_ * scale_);
      }
      int16_t* panel = codes_.get() + first * num_pairs_ * 2;
      for (int64_t i = 0; i < num_pairs_; ++i) {
        for (int64_t k = 0; k < panel_codes_; ++k, panel += 2) {
          const int16_t* pair = quantised.data() + (k * num_pairs_ + i) * 2;
          panel[0] = pair[0];
          panel[1] = pair[1];
        }
      }
    }
  });
  max_residual_ =
      std::sqrt(*std::max_element(panel_residual2.begin(), panel_residual2.end()));
  return true;
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
  explicit Int16Worker(const ScreenInt16& screen)
      : screen_(screen),
        kernels_(screen.kernels_),
        row_stride_((screen.num_pairs_ * 2 + 31) / 32 * 32),
        quantised_(allocate_lines<int16_t>(CodeScreen::kMostRows * row_stride_)),
        state_(allocate_lines<int32_t>(CodeScreen::kMostRows * 2 * kernels_.lanes)),
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

  const ScreenInt16& screen_;
  const ScreenInt16Kernels& kernels_;
  const int64_t row_stride_;
  int64_t num_rows_ = 0;
  Lines<int16_t> quantised_;
  Lines<int32_t> state_;
  int32_t shifts_[CodeScreen::kMostRows];
  std::vector<RowState> rows_;
};

// Quantises a row as the r-th one; false if there is no bound for it.
bool Int16Worker::prepare(const double* z, int64_t r) {
  const int64_t dim = screen_.dim_;
  const double norm = std::sqrt(kernels_.norm2(z, screen_.centre_.data(), dim)) * screen_.scale_;
  int shift = 0;
  double power = 2.0;
  for (; !(power * norm <= screen_.most_norm_); power *= 0.5) {
    if (++shift > kMostShift) return false;
  }
  const double residual =
      std::sqrt(kernels_.quantise(z, screen_.centre_.data(), -power * screen_.scale_, dim,
                                  quantised_.get() + r * row_stride_));
  shifts_[r] = shift;

  const double row_norm = power * norm, code_norm = screen_.max_norm_;
  const double quantising = residual * (code_norm + screen_.max_residual_) +
                            row_norm * screen_.max_residual_;
  const double error = quantising * (1.0 + 0x1p-30) + 2.0 + kInt16TagMask;
  const double definition = (dim + 8) * 0x1p-53 / power * (row_norm + power * code_norm) *
                            (row_norm + power * code_norm);
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
    out[r].open = !prepare(z + r * screen_.dim_, num_rows_);
    if (!out[r].open) rows_[num_rows_++].row = r;
  }
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
  const int64_t panel_codes = screen_.panel_codes_, num_pairs = screen_.num_pairs_;
  const int64_t panel_bytes = panel_codes * num_pairs * 2 * sizeof(int16_t);
  const int64_t group = std::max<int64_t>(1, kGroupBytes / panel_bytes);
  Int16Tile tile;
  tile.row_stride = row_stride_;
  tile.num_pairs = num_pairs;
  for (int64_t p = 0; p < num_panels; p += group) {
    tile.num_panels = std::min(group, num_panels - p);
    tile.codes = screen_.codes_.get() + (first_panel + p) * panel_codes * num_pairs * 2;
    tile.norms = screen_.norms_.get() + (first_panel + p) * panel_codes;
    tile.first_tag = static_cast<int32_t>(p * kernels_.vectors);
    for (int64_t r = 0; r < num_rows_; r += kernels_.tile_rows) {
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
    if (screen_.norms_[row->codes[i]] == kNoCode) out->open = true;
    out->codes[i] = row->codes[i];
  }
  out->count = out->open ? 0 : row->count;
}

std::unique_ptr<CodeScreen::Worker> ScreenInt16::worker() const {
  return std::make_unique<Int16Worker>(*this);
}

}  // namespace

std::shared_ptr<const CodeScreen> make_screen_int16(const Rows& codebook, int64_t num_codes,
                                                    int64_t dim, SimdLevel level,
                                                    const Parallel& parallel) {
  if (num_codes < 1 || num_codes > kMostCodes || dim < 1 || dim > kMostDim) return nullptr;
  const DefaultFloatMode float_mode;
  auto screen = std::make_shared<ScreenInt16>(num_codes, dim, level);
  if (!screen->pack(codebook, parallel)) return nullptr;
  return screen;
}

}  // namespace vqgan_fast
