#include "kernels/cpu/direct_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/code_distances.h"
#include "kernels/cpu/code_distances_kernels.h"
#include "kernels/cpu/row_block.h"

namespace vqgan_fast {
namespace {

// Rows that pass over the codebook together.
constexpr int64_t kBlockRows = 96;
// Panels that stay in the first-level cache while all rows pass over them.
constexpr int64_t kGroupBytes = 16384;
// Codes of a row that wait to be measured, and how many of them are worth waiting for a shorter
// limit.
constexpr int kMostWaiting = 64;
constexpr int kFewWaiting = 48;
// No distance is within it.
constexpr float kShut = -1.0f;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows up to this pass over the codes where they lie; for more of them, panels are worth making.
// Where codes are short, adding up the lanes is most of the work.
int64_t most_rows_in_place(int64_t dim) { return std::min<int64_t>(4, 1 + dim / 8); }

float round_up(double value) {
  const float rounded = static_cast<float>(value);
  return rounded < value ? std::nextafter(rounded, kInfinity) : rounded;
}

// How large the fp32 distance of the definition's choice can be. docs/numerics.md, "Direct
// distances".
class Fp32Bound {
 public:
  explicit Fp32Bound(int64_t dim) : n_((dim + 8) * 0x1p-24), underflow_(dim * 0x1p-148) {}
  bool holds() const { return n_ < 0.125; }
  // given the fp32 distance of some code
  float of_fp32(float distance) const {
    return round_up((distance + underflow_) / (1.0 - 2.0 * n_) + underflow_);
  }
  // given the definition's distance of some code
  float of_exact(double distance) const { return round_up(distance / (1.0 - n_) + underflow_); }

 private:
  double n_;
  double underflow_;
};

struct Candidate {
  int64_t code;
  float distance;
};

// A row on its way through the fp32 distances.
struct OpenRow {
  const double* z;
  Nearest* found;
  float best;            // smallest fp32 distance so far
  int num_waiting;       // codes that may be nearest
  int64_t num_measured;  // codes that were measured on the way
  Candidate waiting[kMostWaiting];
};

// A row to be scanned in fp64, from first_code on.
struct ScanRow {
  const double* z;
  Nearest* found;
  int64_t first_code;
};

}  // namespace

struct DirectSearch::Impl {
  const Rows codebook;
  const int64_t dim;
  const CodeDistanceKernels& kernels;
  const CodeKernels* const in_place;
  const Fp32Bound bound;
  PairDistances pairs;
  int64_t rows_scanned = 0;

  int64_t first_code = 0;
  int64_t last_code = 0;
  std::vector<OpenRow> open;
  std::vector<float> limits;  // of the open rows
  std::vector<ScanRow> scan;
  std::vector<double> scan_limits;
  std::vector<double> codes;                  // where they cannot be read in place
  std::vector<float> rows_fp32, panels_fp32;  // tile by tile: [d][row]; panel by panel: [d][code]
  std::vector<double> rows_fp64, panels_fp64;

  Impl(const Rows& codebook, int64_t dim, SimdLevel level)
      : codebook(codebook),
        dim(dim),
        kernels(code_distance_kernels(level)),
        in_place(in_place_kernels(kernels, codebook)),
        bound(dim),
        pairs(codebook, dim, level) {}

  void run(const double* const* z, int64_t num_rows, Nearest* const* found);
  void search_fp32();
  void pass_in_place();
  float keep(int64_t i, int64_t code, int num_codes, const float* distances);
  bool make_room(int64_t i, int64_t code);
  void search_fp64();
  double keep(int64_t i, int64_t code, int num_codes, const double* distances);

  template <class Scalar>
  void pack(int64_t code, int64_t count, Scalar* panel);
  template <class Scalar, class OfRow>
  void pass(const DirectKernel<Scalar>& kernel, int64_t num_rows, int64_t begin,
            const OfRow& z_of_row, std::vector<Scalar>* rows, std::vector<Scalar>* panels,
            const std::vector<Scalar>& row_limits);
};

namespace {

void pack_codes(const CodeKernels& from, const void* codes, int64_t stride, int64_t count,
                int64_t dim, float* panel) {
  from.pack_fp32(codes, stride, count, dim, panel);
}

void pack_codes(const CodeKernels& from, const void* codes, int64_t stride, int64_t count,
                int64_t dim, double* panel) {
  from.pack_fp64(codes, stride, count, dim, panel);
}

bool is_fp32(const double* z, int64_t dim) {
  bool all = true;
  for (int64_t d = 0; d < dim; ++d) all &= static_cast<double>(static_cast<float>(z[d])) == z[d];
  return all;
}

void drop_waiting_above(float limit, OpenRow* row) {
  int kept = 0;
  for (int i = 0; i < row->num_waiting; ++i) {
    if (row->waiting[i].distance <= limit) row->waiting[kept++] = row->waiting[i];
  }
  row->num_waiting = kept;
}

}  // namespace

template <class Scalar>
void DirectSearch::Impl::pack(int64_t code, int64_t count, Scalar* panel) {
  // Codes a constant stride apart: all on one of the two levels of rows.
  if (in_place != nullptr && code + count <= codebook.inner_rows) {
    const char* first = static_cast<const char*>(codebook.data) +
                        code * codebook.inner_stride * in_place->element_bytes;
    return pack_codes(*in_place, first, codebook.inner_stride, count, dim, panel);
  }
  codes.resize(count * dim);
  load_rows(codebook, code, count, dim, codes.data());
  pack_codes(kernels.from_fp64, codes.data(), dim, count, dim, panel);
}

// Takes rows with z_of_row(i), i < num_rows, past the codes from `begin` on.
template <class Scalar, class OfRow>
void DirectSearch::Impl::pass(const DirectKernel<Scalar>& kernel, int64_t num_rows, int64_t begin,
                              const OfRow& z_of_row, std::vector<Scalar>* rows,
                              std::vector<Scalar>* panels, const std::vector<Scalar>& row_limits) {
  rows->resize(num_rows * dim);
  for (int64_t i = 0; i < num_rows; ++i) {
    const int64_t tile = i / kernel.tile_rows * kernel.tile_rows;
    const int64_t tile_rows = std::min<int64_t>(kernel.tile_rows, num_rows - tile);
    Scalar* to = rows->data() + tile * dim + (i - tile);
    const double* z = z_of_row(i);
    for (int64_t d = 0; d < dim; ++d) to[d * tile_rows] = static_cast<Scalar>(z[d]);
  }
  const int64_t panel_size = kernel.panel_codes * dim;
  const int64_t group = std::max<int64_t>(1, kGroupBytes / (panel_size * sizeof(Scalar)));
  panels->resize(group * panel_size);
  const KeepDistances<Scalar> keep_distances = [](void* search, int64_t row, int64_t code,
                                                  int num_codes, const Scalar* distances) {
    return static_cast<Impl*>(search)->keep(row, code, num_codes, distances);
  };
  for (int64_t k = begin; k < last_code; k += group * kernel.panel_codes) {
    int64_t num_panels = 0;
    for (; num_panels < group; ++num_panels) {
      const int64_t code = k + num_panels * kernel.panel_codes;
      if (code >= last_code) break;
      pack(code, std::min<int64_t>(kernel.panel_codes, last_code - code),
           panels->data() + num_panels * panel_size);
    }
    bool any_open = false;
    for (int64_t tile = 0; tile < num_rows; tile += kernel.tile_rows) {
      const int64_t tile_rows = std::min<int64_t>(kernel.tile_rows, num_rows - tile);
      const Scalar* limits = row_limits.data() + tile;
      if (std::all_of(limits, limits + tile_rows, [](Scalar x) { return x == kShut; })) continue;
      any_open = true;
      kernel.run(rows->data() + tile * dim, tile_rows, dim, panels->data(), num_panels, limits,
                 keep_distances, this, tile, k);
    }
    if (!any_open) return;
  }
}

void DirectSearch::Impl::run(const double* const* z, int64_t num_rows, Nearest* const* found) {
  open.clear();
  limits.clear();
  scan.clear();
  const bool fp32 = codebook.dtype != DType::kFloat64 && bound.holds();
  for (int64_t r = 0; r < num_rows; ++r) {
    if (!fp32 || !is_fp32(z[r], dim)) {
      scan.push_back({z[r], found[r], first_code});
      continue;
    }
    OpenRow& row = open.emplace_back();
    row.z = z[r];
    row.found = found[r];
    row.best = kInfinity;
    row.num_waiting = 0;
    row.num_measured = 0;
    limits.push_back(found[r]->index < 0 ? kInfinity : bound.of_exact(found[r]->distance));
  }
  if (!open.empty()) search_fp32();
  if (!scan.empty()) search_fp64();
  rows_scanned += scan.size();
}

void DirectSearch::Impl::search_fp32() {
  if (static_cast<int64_t>(open.size()) <= most_rows_in_place(dim) && in_place != nullptr &&
      in_place->few_rows != nullptr && last_code <= codebook.inner_rows) {
    pass_in_place();
  } else {
    pass<float>(
        kernels.fp32, open.size(), first_code, [&](int64_t i) { return open[i].z; }, &rows_fp32,
        &panels_fp32, limits);
  }
  for (size_t i = 0; i < open.size(); ++i) {
    if (limits[i] == kShut) continue;
    OpenRow& row = open[i];
    drop_waiting_above(limits[i], &row);
    for (int j = 0; j < row.num_waiting; ++j) pairs.add(row.z, row.waiting[j].code, row.found);
  }
  pairs.flush();
}

// Takes the open rows past the codes where they lie.
void DirectSearch::Impl::pass_in_place() {
  const int64_t num_rows = open.size();
  const int64_t row_size = (dim + kFewRowsStep - 1) / kFewRowsStep * kFewRowsStep;
  rows_fp32.assign(num_rows * row_size, 0.0f);
  for (int64_t i = 0; i < num_rows; ++i) {
    std::copy_n(open[i].z, dim, rows_fp32.begin() + i * row_size);
  }
  const KeepDistances<float> keep_distances = [](void* search, int64_t row, int64_t code,
                                                 int num_codes, const float* distances) {
    return static_cast<Impl*>(search)->keep(row, code, num_codes, distances);
  };
  const int64_t code_bytes = dim * in_place->element_bytes;
  const int64_t group = num_rows <= kFewRows ? last_code - first_code
                                             : std::max<int64_t>(8, kGroupBytes / code_bytes);
  for (int64_t k = first_code; k < last_code; k += group) {
    const char* code = static_cast<const char*>(codebook.data) +
                       k * codebook.inner_stride * in_place->element_bytes;
    for (int64_t row = 0; row < num_rows; row += kFewRows) {
      in_place->few_rows(rows_fp32.data() + row * row_size,
                         static_cast<int>(std::min<int64_t>(kFewRows, num_rows - row)), dim, code,
                         codebook.inner_stride, std::min(group, last_code - k), limits.data() + row,
                         keep_distances, this, row, k);
    }
  }
}

float DirectSearch::Impl::keep(int64_t i, int64_t code, int num_codes, const float* distances) {
  OpenRow& row = open[i];
  const int64_t count = std::min<int64_t>(num_codes, last_code - code);
  for (int64_t lane = 0; lane < count; ++lane) {
    if (distances[lane] < row.best) row.best = distances[lane];
  }
  limits[i] = std::min(limits[i], bound.of_fp32(row.best));
  for (int64_t lane = 0; lane < count; ++lane) {
    if (!(distances[lane] <= limits[i])) continue;
    if (row.num_waiting == kMostWaiting && !make_room(i, code)) break;
    row.waiting[row.num_waiting++] = {code + lane, distances[lane]};
  }
  return limits[i];
}

// Shortens the list of row i, which stands at the panel that begins with `code`; returns whether it
// is worth going on with this row.
bool DirectSearch::Impl::make_room(int64_t i, int64_t code) {
  OpenRow& row = open[i];
  drop_waiting_above(limits[i], &row);
  if (row.num_waiting <= kFewWaiting) return true;
  for (int j = 0; j < row.num_waiting; ++j) pairs.add(row.z, row.waiting[j].code, row.found);
  pairs.flush();
  row.num_measured += row.num_waiting;
  row.num_waiting = 0;
  // A pair costs about 4 + 160 / dim times what a code costs in the scan. Half as much as the scan
  // of the codes so far was well spent, but no more.
  if (row.num_measured > 2 * kMostWaiting + (code - first_code) * dim / (8 * dim + 320)) {
    scan.push_back({row.z, row.found, code});
    limits[i] = kShut;
    return false;
  }
  if (row.found->index >= 0) {
    limits[i] = std::min(limits[i], bound.of_exact(row.found->distance));
  }
  return true;
}

void DirectSearch::Impl::search_fp64() {
  int64_t begin = last_code;
  scan_limits.clear();
  for (const ScanRow& row : scan) {
    begin = std::min(begin, row.first_code);
    scan_limits.push_back(row.found->index < 0 ? std::numeric_limits<double>::infinity()
                                               : row.found->distance);
  }
  pass<double>(
      kernels.fp64, scan.size(), begin, [&](int64_t i) { return scan[i].z; }, &rows_fp64,
      &panels_fp64, scan_limits);
}

double DirectSearch::Impl::keep(int64_t i, int64_t code, int num_codes, const double* distances) {
  Nearest& found = *scan[i].found;
  const int64_t count = std::min<int64_t>(num_codes, last_code - code);
  for (int64_t lane = 0; lane < count; ++lane) found.offer(distances[lane], code + lane);
  if (found.index >= 0) scan_limits[i] = found.distance;
  return scan_limits[i];
}

DirectSearch::DirectSearch(const Rows& codebook, int64_t /*num_codes*/, int64_t dim,
                           SimdLevel level)
    : impl_(std::make_unique<Impl>(codebook, dim, level)) {}

DirectSearch::~DirectSearch() = default;

void DirectSearch::run(const double* const* z, int64_t num_rows, int64_t first_code,
                       int64_t last_code, Nearest* const* found) {
  impl_->first_code = first_code;
  impl_->last_code = last_code;
  for (int64_t r = 0; r < num_rows; r += kBlockRows) {
    impl_->run(z + r, std::min(kBlockRows, num_rows - r), found + r);
  }
}

int64_t DirectSearch::rows_scanned() const { return impl_->rows_scanned; }

}  // namespace vqgan_fast
