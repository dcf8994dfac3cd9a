#include "kernels/cpu/quantised_rows.h"

#include <algorithm>
#include <cmath>

namespace vqgan_fast {
namespace {

// Panels that stay in the first-level cache while the rows of a block pass over them.
constexpr int64_t kGroupBytes = 16384;
// A codebook that needs no fetching ahead: the second-level cache has it, or nearly.
constexpr int64_t kNearBytes = 1 << 20;
// The largest norm of a row, in those of codes, is about 2^(kMostShift - 1).
constexpr int kMostShift = 30;

// A thread that goes on with tiles in use is slower to switch to.
class TilesInUse {
 public:
  TilesInUse(const QuantisedKernels& kernels, int64_t dim) : end_(kernels.bytes.end) {
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

QuantisedRows::QuantisedRows(const QuantisedCodebook& codebook, const QuantisedKernels& kernels,
                             int64_t most_rows, int32_t score_slack)
    : codebook_(codebook),
      kernels_(kernels),
      in_bytes_(kernels.bytes.place_row != nullptr),
      row_stride_(in_bytes_ ? kernels.bytes.row_elements(codebook.dim)
                            : (codebook.dim + 31) / 32 * 32),
      score_slack_(score_slack),
      quantised_(allocate_array<int16_t>(most_rows * row_stride_)),
      row_(codebook.dim) {
  std::fill_n(quantised_.get(), most_rows * row_stride_, int16_t{0});
}

QuantisedRows::Scale QuantisedRows::scale_of(const double* z) const {
  const double* centre = codebook_.centre.data();
  const double norm = std::sqrt(kernels_.norm2(z, centre, codebook_.dim)) * codebook_.scale;
  const double element =
      in_bytes_ ? kernels_.bytes.largest(z, centre, codebook_.dim) * codebook_.scale : 0.0;
  double power = 2.0;
  for (int shift = 0; shift <= kMostShift; ++shift, power *= 0.5) {
    if (power * norm <= codebook_.most_norm && power * element <= codebook_.most_element) {
      return {norm, shift};
    }
  }
  return {norm, -1};
}

int64_t QuantisedRows::quantise(const double* z, const Scale& scale, int64_t r) {
  const int64_t dim = codebook_.dim;
  const double power = std::ldexp(2.0, -scale.shift);
  int16_t* quantised = in_bytes_ ? row_.data() : quantised_.get() + r * row_stride_;
  const double residual = std::sqrt(
      kernels_.quantise(z, codebook_.centre.data(), -power * codebook_.scale, dim, quantised));
  const double low =
      in_bytes_ ? std::sqrt(kernels_.bytes.place_row(quantised, dim, quantised_.get(), r)) : 0.0;
  shifts_[r] = scale.shift;

  const double row_norm = power * scale.norm, code_norm = codebook_.code_norm;
  const double quantising = residual * (code_norm + codebook_.max_residual) +
                            row_norm * codebook_.max_residual + low * codebook_.max_low;
  const double error = quantising / codebook_.unit * (1.0 + 0x1p-30) + 2.0 + score_slack_;
  const double definition = (dim + 8) * 0x1p-53 / (power * codebook_.unit) *
                            (row_norm + power * code_norm) * (row_norm + power * code_norm);
  const double margin = 2.0 * error + definition;
  return margin < 0x1p30 ? static_cast<int64_t>(margin) + 1 : -1;
}

// A score is (distance^2 - norm^2) / 2^shift in units, all of it times B^2, and errs by half a
// margin.
double QuantisedRows::most_score(const Scale& scale, int64_t margin, double within2) const {
  const double unit = std::ldexp(codebook_.unit, scale.shift);
  const double distance2 = within2 * codebook_.scale * codebook_.scale / unit;
  const double norm2 = scale.norm * scale.norm / unit;
  return distance2 - norm2 + rounding(distance2 + norm2) + 0.5 * margin + 1.0;
}

double QuantisedRows::most_distance2(const Scale& scale, int64_t margin, double score) const {
  const double unit = std::ldexp(codebook_.unit, scale.shift);
  const double norm2 = scale.norm * scale.norm / unit;
  const double most = norm2 + score + rounding(2.0 * norm2 + std::abs(score)) + 0.5 * margin + 1.0;
  return std::max(most, 0.0) * unit / codebook_.scale / codebook_.scale;
}

void QuantisedRows::for_each_tile(int64_t num_rows, int64_t first_panel, int64_t num_panels,
                                  const TileBody& body) const {
  const int64_t panel_codes = codebook_.panel_codes, code_elements = codebook_.code_elements;
  const int64_t panel_bytes = panel_codes * code_elements * sizeof(int16_t);
  const int64_t group = std::max<int64_t>(1, kGroupBytes / panel_bytes);
  const bool far = codebook_.num_panels * panel_bytes > kNearBytes;
  const int64_t shared_by = std::max<int64_t>(num_rows, kernels_.tile_rows);
  QuantisedTile tile = {};
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
    for (int64_t r = 0; r < num_rows; r += kernels_.tile_rows) {
      for (int64_t i = 0; i < share; i += 64) __builtin_prefetch(next + i, 0, 2);
      next += share;
      tile.num_rows = static_cast<int>(std::min<int64_t>(kernels_.tile_rows, num_rows - r));
      tile.rows = quantised_.get() + r * row_stride_;
      tile.shifts = shifts_ + r;
      tile.same_shift = std::all_of(tile.shifts, tile.shifts + tile.num_rows,
                                    [&](int32_t shift) { return shift == *tile.shifts; });
      body(&tile, r);
    }
  }
}

int64_t QuantisedRows::most_panels_to_mark() const { return kMarkedVectors / kernels_.vectors; }

void QuantisedRows::mark(int64_t num_rows, int64_t first_panel, int64_t num_panels,
                         const int32_t* limits, const bool* wanted, const TileBody& set_up) {
  marks_.assign(num_rows * kMarkedVectors, 0);
  for_each_tile(num_rows, first_panel, num_panels, [&](QuantisedTile* tile, int64_t r) {
    const bool* of_tile = wanted + r;
    if (std::find(of_tile, of_tile + tile->num_rows, true) == of_tile + tile->num_rows) return;
    tile->limits = limits + r;
    tile->marks = marks_.data() + r * kMarkedVectors + tile->first_tag;
    tile->marks_stride = kMarkedVectors;
    set_up(tile, r);
    kernels_.mark(*tile);
  });
}

void QuantisedRows::take_list(RowCandidates* row) const {
  const auto is_none = [&](int64_t k) { return codebook_.norms[k] == kNoCodeNorm; };
  row->open = std::any_of(row->many.begin(), row->many.end(), is_none);
  if (row->open) row->many.clear();
  if (row->many.size() > RowCandidates::kMost) return;
  row->count = static_cast<int>(row->many.size());
  std::copy(row->many.begin(), row->many.end(), row->codes);
  row->many.clear();
}

}  // namespace vqgan_fast
