#include "kernels/cpu/int16_worker.h"

#include <algorithm>
#include <cmath>

namespace vqgan_fast {
namespace {

// Panels that stay in the first-level cache while the rows of a block pass over them.
constexpr int64_t kGroupBytes = 16384;
// A codebook that needs no fetching ahead: the second-level cache has it, or nearly.
constexpr int64_t kNearBytes = 1 << 20;
// Where a quarter of a block is open, the codes of these rows are marked.
constexpr int64_t kShareToMark = 4;
// Where half of a block was open, so many blocks take their limits from an eighth of the codes.
constexpr int64_t kBlocksToMark = 16, kShareSampled = 8;
// The largest norm of a row, in those of codes, is about 2^(kMostShift - 1).
constexpr int kMostShift = 30;

// A thread that goes on with tiles in use is slower to switch to.
class TilesInUse {
 public:
  TilesInUse(const ScreenInt16Kernels& kernels, int64_t dim) : end_(kernels.bytes.end) {
    if (end_ != nullptr) kernels.bytes.begin(dim);
  }
  ~TilesInUse() {
    if (end_ != nullptr) end_();
  }
  TilesInUse(const TilesInUse&) = delete;
  TilesInUse& operator=(const TilesInUse&) = delete;

 private:
  void (*const end_)();
};

}  // namespace

Int16Worker::Int16Worker(const Int16Codebook& codebook, const ScreenInt16Kernels& kernels,
                         int64_t most_rows)
    : codebook_(codebook),
      kernels_(kernels),
      row_stride_(kernels.layout == Int16Layout::kBytes ? (codebook.dim + 63) / 64 * 64
                                                        : (codebook.dim + 31) / 32 * 32),
      quantised_(allocate_array<int16_t>(most_rows * row_stride_)),
      state_(allocate_array<int32_t>(most_rows * 2 * kernels.lanes)),
      row_(codebook.dim),
      rows_(most_rows) {
  std::fill_n(quantised_.get(), most_rows * row_stride_, int16_t{0});
}

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
  const double low = kernels_.layout == Int16Layout::kBytes ? codebook_.dim * 0x1p14 : 0.0;
  const double rounding = std::sqrt(codebook_.dim) * most + low;
  return static_cast<int32_t>((product + rounding) / codebook_.unit) + 4 + kInt16LeastScore;
}

bool Int16Worker::prepare(const double* z, int64_t r) {
  const int64_t dim = codebook_.dim;
  const double norm = std::sqrt(kernels_.norm2(z, codebook_.centre.data(), dim)) * codebook_.scale;
  int shift = 0;
  double power = 2.0;
  const bool bytes = kernels_.layout == Int16Layout::kBytes;
  const double element =
      bytes ? kernels_.bytes.largest(z, codebook_.centre.data(), dim) * codebook_.scale : 0.0;
  for (; !(power * norm <= codebook_.most_norm && power * element <= codebook_.most_element);
       power *= 0.5) {
    if (++shift > kMostShift) return false;
  }
  int16_t* quantised = bytes ? row_.data() : quantised_.get() + r * row_stride_;
  const double residual = std::sqrt(
      kernels_.quantise(z, codebook_.centre.data(), -power * codebook_.scale, dim, quantised));
  const double low =
      bytes ? std::sqrt(kernels_.bytes.place_row(quantised, dim, quantised_.get(), r)) : 0.0;
  shifts_[r] = shift;
  biases_[r] = bias_of(shift);

  const double row_norm = power * norm, code_norm = codebook_.code_norm;
  const double quantising = residual * (code_norm + codebook_.max_residual) +
                            row_norm * codebook_.max_residual + low * codebook_.max_low;
  const double error = quantising / codebook_.unit * (1.0 + 0x1p-30) + 2.0 + kInt16TagMask;
  const double definition = (dim + 8) * 0x1p-53 / (power * codebook_.unit) *
                            (row_norm + power * code_norm) * (row_norm + power * code_norm);
  const double margin = 2.0 * error + definition;
  if (!(margin < 0x1p30)) return false;
  Row& row = rows_[r];
  row.margin = static_cast<int64_t>(margin) + 1;
  row.smallest = row.limit = row.loser = kInt16MostScore;
  row.count = 0;
  return true;
}

void Int16Worker::run(const double* z, int64_t num_rows, int64_t first_panel, int64_t last_panel,
                      RowCandidates* out) {
  num_rows_ = 0;
  for (int64_t r = 0; r < num_rows; ++r) {
    out[r].count = 0;
    out[r].many.clear();
    out[r].open = !prepare(z + r * codebook_.dim, num_rows_);
    if (!out[r].open) rows_[num_rows_++].number = r;
  }
  if (num_rows_ == 0) return;
  const int64_t num_panels = last_panel - first_panel;
  const auto num_open = [&] {
    return std::count_if(rows_.begin(), rows_.begin() + num_rows_,
                         [&](const Row& row) { return out[row.number].open; });
  };
  if (blocks_to_mark_ > 0) {
    // Another eighth for each block: one may be unlike the rest.
    const int64_t sample = (num_panels + kShareSampled - 1) / kShareSampled;
    const int64_t skipped = --blocks_to_mark_ % kShareSampled * sample;
    screen(first_panel + std::min(skipped, num_panels - sample), sample);
    mark(first_panel, num_panels, out);
    if (num_open() * 2 > num_rows_) blocks_to_mark_ = 0;
    return;
  }
  screen(first_panel, num_panels);
  for (int64_t r = 0; r < num_rows_; ++r) finish(&rows_[r], out + rows_[r].number);
  const int64_t before = num_open();
  if (codebook_.dim < kernels_.least_dim_to_mark || before * kShareToMark < num_rows_) return;
  mark(first_panel, num_panels, out);
  if (before * 2 > num_rows_ && num_open() * 2 <= num_rows_) blocks_to_mark_ = kBlocksToMark;
}

void Int16Worker::screen(int64_t first_panel, int64_t num_panels) {
  // As many panels as there are tags.
  const int64_t segment = (kInt16TagMask + 1) / kernels_.vectors;
  for (int64_t p = 0; p < num_panels; p += segment) {
    std::fill_n(state_.get(), num_rows_ * 2 * kernels_.lanes, kInt16MostScore);
    for_each_tile(first_panel + p, std::min(segment, num_panels - p),
                  [&](Int16Tile* tile, int64_t r) {
                    tile->state = state_.get() + r * 2 * kernels_.lanes;
                    kernels_.screen(*tile);
                  });
    for (int64_t r = 0; r < num_rows_; ++r) collect(r, first_panel + p);
  }
}

void Int16Worker::for_each_tile(int64_t first_panel, int64_t num_panels,
                                const std::function<void(Int16Tile*, int64_t)>& body) const {
  const int64_t panel_codes = codebook_.panel_codes, code_elements = codebook_.code_elements;
  const int64_t panel_bytes = panel_codes * code_elements * sizeof(int16_t);
  const int64_t group = std::max<int64_t>(1, kGroupBytes / panel_bytes);
  const bool far = codebook_.num_panels * panel_bytes > kNearBytes;
  const int64_t shared_by = std::max<int64_t>(num_rows_, kernels_.tile_rows);
  Int16Tile tile = {};
  tile.row_stride = row_stride_;
  tile.dim = codebook_.dim;
  const TilesInUse tiles(kernels_, tile.dim);
  for (int64_t p = 0; p < num_panels; p += group) {
    tile.num_panels = std::min(group, num_panels - p);
    tile.codes = codebook_.codes.get() + (first_panel + p) * panel_codes * code_elements;
    tile.norms = codebook_.norms.get() + (first_panel + p) * panel_codes;
    tile.first_tag = static_cast<int32_t>(p * kernels_.vectors);
    // Each tile asks for its share of the next group, for that to be near when its turn comes.
    const char* next = reinterpret_cast<const char*>(tile.codes) + tile.num_panels * panel_bytes;
    const int64_t share = far ? tile.num_panels * panel_bytes * kernels_.tile_rows / shared_by : 0;
    for (int64_t r = 0; r < num_rows_; r += kernels_.tile_rows) {
      for (int64_t i = 0; i < share; i += 64) __builtin_prefetch(next + i, 0, 2);
      next += share;
      tile.num_rows = static_cast<int>(std::min<int64_t>(kernels_.tile_rows, num_rows_ - r));
      tile.rows = quantised_.get() + r * row_stride_;
      tile.shifts = shifts_ + r;
      tile.biases = biases_ + r;
      tile.same_shift = std::all_of(tile.shifts, tile.shifts + tile.num_rows,
                                    [&](int32_t shift) { return shift == *tile.shifts; });
      body(&tile, r);
    }
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
    row.limit = static_cast<int32_t>(std::min<int64_t>(smallest + row.margin, kInt16MostScore));
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
    if (codebook_.norms[row->codes[i]] == kInt16NoCode) out->open = true;
    out->codes[i] = row->codes[i];
  }
  out->count = out->open ? 0 : row->count;
}

}  // namespace vqgan_fast
