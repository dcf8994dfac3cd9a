#include "kernels/cpu/direct_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/code_distances.h"
#include "kernels/cpu/code_distances_kernels.h"
#include "kernels/cpu/direct_pass.h"

namespace vqgan_fast {
namespace {

// Rows that pass over the codebook together, at most.
constexpr int64_t kBlockRows = 384;
// Codes of a row that wait to be measured, and how many of them are worth waiting for a shorter
// limit.
constexpr int kMostWaiting = 64;
constexpr int kFewWaiting = 48;

// A pair that is measured costs about 4 + 160 / dim times what a code costs in the scan.
constexpr int64_t kPairCodes = 4, kPairElements = 160;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

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
  const Fp32Bound bound;
  const CodeDistanceKernels& kernels;
  DirectPass<float> fp32;
  DirectPass<double> fp64;
  PairDistances pairs;
  int64_t rows_scanned = 0;

  int64_t first_code = 0;
  int64_t last_code = 0;
  std::vector<OpenRow> open;
  std::vector<float> limits;  // of the open rows
  std::vector<ScanRow> scan;
  std::vector<double> scan_limits;
  std::vector<const double*> passing;  // rows
  std::vector<float> row, distances;   // of a list

  Impl(const Rows& codebook, int64_t dim, SimdLevel level)
      : codebook(codebook),
        dim(dim),
        bound(dim),
        kernels(code_distance_kernels(level)),
        fp32(this->codebook, dim, code_distance_kernels(level)),
        fp64(this->codebook, dim, code_distance_kernels(level)),
        pairs(codebook, dim, level) {}

  void run(const double* const* z, int64_t num_rows, Nearest* const* found);
  bool run_listed(const double* z, const std::vector<int64_t>& codes, int64_t num_codes,
                  Nearest* found);
  void search_fp32();
  float keep(int64_t i, int64_t code, int num_codes, const float* distances);
  bool make_room(int64_t i, int64_t code);
  void search_fp64();
  double keep(int64_t i, int64_t code, int num_codes, const double* distances);

  template <class Scalar>
  static Scalar keep_distances(void* search, int64_t row, int64_t code, int num_codes,
                               const Scalar* distances) {
    return static_cast<Impl*>(search)->keep(row, code, num_codes, distances);
  }
};

namespace {

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

void DirectSearch::Impl::run(const double* const* z, int64_t num_rows, Nearest* const* found) {
  open.clear();
  limits.clear();
  scan.clear();
  const bool in_fp32 = codebook.dtype != DType::kFloat64 && bound.holds();
  for (int64_t r = 0; r < num_rows; ++r) {
    if (!in_fp32 || !is_fp32(z[r], dim)) {
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

bool DirectSearch::Impl::run_listed(const double* z, const std::vector<int64_t>& codes,
                                    int64_t num_codes, Nearest* found) {
  const CodeKernels* in_place = in_place_kernels(kernels, codebook);
  const auto num_listed = static_cast<int64_t>(codes.size());
  float limit = kInfinity;
  distances.assign(num_listed + kListedCodes, 0.0f);
  if (in_place != nullptr && in_place->listed != nullptr && bound.holds() && is_fp32(z, dim)) {
    const char* data = static_cast<const char*>(codebook.data);
    row.assign((dim + kFewRowsStep - 1) / kFewRowsStep * kFewRowsStep, 0.0f);
    std::copy_n(z, dim, row.begin());
    float best = kInfinity;
    const void *e[kListedCodes], *next[kListedCodes] = {};
    const int64_t code_bytes = dim * in_place->element_bytes;
    for (int64_t first = -kListedCodes; first < num_listed; first += kListedCodes) {
      std::copy_n(next, kListedCodes, e);
      for (int i = 0; i < kListedCodes; ++i) {
        const int64_t code = codes[std::min(first + kListedCodes + i, num_listed - 1)];
        const char* begin = data + codebook.offset(code) * in_place->element_bytes;
        for (int64_t byte = 0; byte < code_bytes; byte += 64) __builtin_prefetch(begin + byte);
        next[i] = begin;
      }
      if (first < 0) continue;
      in_place->listed(row.data(), dim, e, distances.data() + first);
      for (int i = 0; i < kListedCodes; ++i) {
        if (distances[first + i] < best) best = distances[first + i];
      }
    }
    limit = bound.of_fp32(best);
  } else if (num_listed * (kPairCodes + kPairElements / dim) > num_codes) {
    return false;
  }
  for (int64_t i = 0; i < num_listed; ++i) {
    if (distances[i] <= limit) pairs.add(z, codes[i], found);
  }
  pairs.flush();
  return true;
}

void DirectSearch::Impl::search_fp32() {
  passing.clear();
  for (const OpenRow& row : open) passing.push_back(row.z);
  fp32.run(passing.data(), passing.size(), first_code, last_code, limits.data(),
           keep_distances<float>, this);
  for (size_t i = 0; i < open.size(); ++i) {
    if (limits[i] == kShut<float>) continue;
    OpenRow& row = open[i];
    drop_waiting_above(limits[i], &row);
    for (int j = 0; j < row.num_waiting; ++j) pairs.add(row.z, row.waiting[j].code, row.found);
  }
  pairs.flush();
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
  // Half as much as the scan of the codes so far was well spent, but no more.
  const int64_t scanned = (code - first_code) * dim / (kPairCodes * dim + kPairElements) / 2;
  if (row.num_measured > 2 * kMostWaiting + scanned) {
    scan.push_back({row.z, row.found, code});
    limits[i] = kShut<float>;
    return false;
  }
  if (row.found->index >= 0) {
    limits[i] = std::min(limits[i], bound.of_exact(row.found->distance));
  }
  return true;
}

void DirectSearch::Impl::search_fp64() {
  int64_t begin = last_code;
  passing.clear();
  scan_limits.clear();
  for (const ScanRow& row : scan) {
    begin = std::min(begin, row.first_code);
    passing.push_back(row.z);
    scan_limits.push_back(row.found->index < 0 ? std::numeric_limits<double>::infinity()
                                               : row.found->distance);
  }
  fp64.run(passing.data(), passing.size(), begin, last_code, scan_limits.data(),
           keep_distances<double>, this);
}

double DirectSearch::Impl::keep(int64_t i, int64_t code, int num_codes, const double* distances) {
  Nearest& found = *scan[i].found;
  const int64_t count = std::min<int64_t>(num_codes, last_code - code);
  for (int64_t lane = 0; lane < count; ++lane) found.offer(distances[lane], code + lane);
  if (found.index >= 0) scan_limits[i] = found.distance;
  return scan_limits[i];
}

DirectSearch::DirectSearch(const Rows& codebook, int64_t dim, SimdLevel level)
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

bool DirectSearch::run_listed(const double* z, const std::vector<int64_t>& codes, int64_t num_codes,
                              Nearest* found) {
  return impl_->run_listed(z, codes, num_codes, found);
}

int64_t DirectSearch::rows_scanned() const { return impl_->rows_scanned; }

}  // namespace vqgan_fast
