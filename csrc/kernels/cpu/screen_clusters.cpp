// The screen by clusters: where codes lie in tight clusters, products that tell all clusters apart
// are too coarse within one. So each cluster is a codebook of its own, packed for products around
// its own centre, and a row passes over those that can hold its nearest code. docs/numerics.md,
// "The screen by clusters".
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/cpu/code_clusters.h"
#include "kernels/cpu/nearest_code_cost.h"
#include "kernels/cpu/nearest_code_screen.h"
#include "kernels/cpu/point_distances.h"

namespace vqgan_fast {
namespace {

// Distances err by less, relative and, where squares underflow, absolutely.
constexpr double kRounding = 0x1p-36, kUnderflow = 0x1p-500;
// Where a distance overflows, it is farther than twice this.
constexpr double kFar = 0x1p500;
constexpr int64_t kMostDim = 16384;
// A cluster of which products tell too little is listed as a whole if it has at most one in so many
// of all codes; a row lists at most one in so many, and at most so many, in all.
constexpr int64_t kShareOfCluster = 16, kShareListed = 8, kMostListed = 1024;
// Rows that pass over a cluster together, as the way to screen it is chosen.
constexpr int64_t kRowsOfCluster = 64;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Cluster {
  std::shared_ptr<const CodeScreen> screen;  // null: there is no bound within the cluster
  bool in_fp32;                              // the screen, which marks nothing
  std::vector<int64_t> codes;                // as the source numbers them
  int64_t centre;
  double nearest, farthest;  // from the centre
};

struct Clusters {
  int64_t num_codes, dim;
  SimdLevel level;
  std::vector<Cluster> all;
  std::vector<double> centres;  // [centre][dim]
};

// A row may be nearest to codes of several clusters, but each that is done makes it fewer: so those
// come first that it lies in, from small to large ones.
class ClustersWorker final : public CodeScreen::Worker {
 public:
  explicit ClustersWorker(const Clusters& clusters)
      : clusters_(clusters),
        num_clusters_(static_cast<int64_t>(clusters.all.size())),
        num_centres_(static_cast<int64_t>(clusters.centres.size()) / clusters.dim),
        most_listed_(std::min(clusters.num_codes / kShareListed, kMostListed)),
        to_centres_(clusters.centres, clusters.dim, clusters.level),
        workers_(num_clusters_),
        markers_(num_clusters_),
        found_(CodeScreen::kMostRows),
        within_(CodeScreen::kMostRows) {}

  void run(const double* z, int64_t num_rows, int64_t first_panel, int64_t last_panel,
           RowCandidates* out) override {
    for (int64_t r = 0; r < num_rows; ++r) {
      out[r].open = false;
      out[r].count = 0;
      out[r].many.clear();
    }
    if (first_panel == last_panel) return;
    distances_.resize(num_rows * num_centres_);
    to_centres_.measure(z, num_rows, distances_.data());
    for (double& distance : distances_) distance = std::sqrt(distance);
    for (int64_t r = 0; r < num_rows; ++r) {
      within_[r] = kInfinity;
      for (const Cluster& cluster : clusters_.all) {
        lower_within(r, distance(r, cluster) + cluster.farthest);
      }
    }
    visits_.assign(num_rows * num_clusters_, Visit::kNotYet);
    for (int64_t c = 0; c < num_clusters_; ++c) {
      visit(z, num_rows, c, false, out, [&](int64_t r) {
        return visits(r, c) == Visit::kNotYet && least(r, clusters_.all[c]) <= 0.0;
      });
    }
    for (int64_t c = 0; c < num_clusters_; ++c) {
      visit(z, num_rows, c, false, out, [&](int64_t r) { return visits(r, c) == Visit::kNotYet; });
    }
    // Few of many rows: by themselves they are worth a second look.
    for (int64_t c = 0; c < num_clusters_; ++c) {
      visit(z, num_rows, c, true, out, [&](int64_t r) { return visits(r, c) == Visit::kOpen; });
    }
  }

 private:
  enum class Visit : char { kNotYet, kOpen, kDone };

  Visit& visits(int64_t r, int64_t c) { return visits_[r * num_clusters_ + c]; }
  // To the centre.
  double distance(int64_t r, const Cluster& cluster) const {
    return distances_[r * num_centres_ + cluster.centre];
  }
  // No code of the cluster is nearer.
  double least(int64_t r, const Cluster& cluster) const {
    const double to_centre = distance(r, cluster);
    return std::max(to_centre - cluster.farthest, cluster.nearest - to_centre);
  }
  // Some code is as near.
  void lower_within(int64_t r, double distance) {
    within_[r] = std::min(within_[r], distance * (1.0 + kRounding) + kUnderflow);
  }
  bool is_excluded(int64_t r, const Cluster& cluster) const {
    if (std::isinf(cluster.nearest)) return distance(r, cluster) < kFar && within_[r] < kFar;
    const double error =
        kRounding * (distance(r, cluster) + cluster.farthest + within_[r]) + kUnderflow;
    // What is not a number excludes nothing.
    return least(r, cluster) > within_[r] + error;
  }

  // Searches a cluster for those rows that want it and can have their nearest code in it; `again`
  // if it left them open before.
  template <class Wants>
  void visit(const double* z, int64_t num_rows, int64_t c, bool again, RowCandidates* out,
             const Wants& wants) {
    const Cluster& cluster = clusters_.all[c];
    rows_.clear();
    for (int64_t r = 0; r < num_rows; ++r) {
      if (!out[r].open && wants(r) && !is_excluded(r, cluster)) rows_.push_back(r);
    }
    if (rows_.empty()) return;
    if (cluster.screen == nullptr || (again && cluster.in_fp32)) {
      for (const int64_t r : rows_) leave_open(r, c, again, out);
      return;
    }
    // What a worker saw decides how it goes on, so rows that were open have one of their own.
    std::unique_ptr<CodeScreen::Worker>& worker = again ? markers_[c] : workers_[c];
    if (worker == nullptr) worker = cluster.screen->worker();
    const auto count = static_cast<int64_t>(rows_.size());
    const int64_t block = std::min(cluster.screen->block_rows(), CodeScreen::kMostRows);
    for (int64_t first = 0; first < count; first += block) {
      screen(z, rows_.data() + first, std::min(block, count - first), c, again, worker.get(), out);
    }
  }

  void screen(const double* z, const int64_t* rows, int64_t num_rows, int64_t c, bool again,
              CodeScreen::Worker* worker, RowCandidates* out) {
    const int64_t dim = clusters_.dim;
    const Cluster& cluster = clusters_.all[c];
    gathered_.resize(num_rows * dim);
    for (int64_t i = 0; i < num_rows; ++i) {
      std::copy_n(z + rows[i] * dim, dim, gathered_.data() + i * dim);
      found_[i].many.clear();  // of a screen that lists many; not all do
      found_[i].within2 = within_[rows[i]] * within_[rows[i]] * (1.0 + 4.0 * kRounding);
    }
    worker->run(gathered_.data(), num_rows, 0, cluster.screen->num_panels(), found_.data());
    for (int64_t i = 0; i < num_rows; ++i) {
      const RowCandidates& found = found_[i];
      const int64_t r = rows[i];
      if (found.open) {
        leave_open(r, c, again, out);
        continue;
      }
      add(found.codes, found.count, cluster, out + r);
      add(found.many.data(), found.many.size(), cluster, out + r);
      lower_within(r, std::sqrt(found.within2));
      visits(r, c) = Visit::kDone;
    }
  }

  // Adds codes that a screen numbers as their cluster does.
  void add(const int64_t* codes, int64_t count, const Cluster& cluster, RowCandidates* row) const {
    for (int64_t i = 0; i < count; ++i) add(cluster.codes[codes[i]], row);
  }
  void add(int64_t code, RowCandidates* row) const {
    if (row->many.empty() && row->count < RowCandidates::kMost) {
      row->codes[row->count++] = code;
      return;
    }
    row->many.insert(row->many.end(), row->codes, row->codes + row->count);
    row->count = 0;
    row->many.push_back(code);
    row->open |= static_cast<int64_t>(row->many.size()) > most_listed_;
  }

  // A row that no product decides waits for what other clusters tell, the second time for nothing:
  // then the cluster is listed, if it is small.
  void leave_open(int64_t r, int64_t c, bool again, RowCandidates* out) {
    const std::vector<int64_t>& codes = clusters_.all[c].codes;
    visits(r, c) = again ? Visit::kDone : Visit::kOpen;
    if (!again) return;
    if (static_cast<int64_t>(codes.size()) * kShareOfCluster > clusters_.num_codes) {
      out[r].open = true;
      return;
    }
    for (const int64_t code : codes) add(code, out + r);
  }

  const Clusters& clusters_;
  const int64_t num_clusters_, num_centres_, most_listed_;
  PointDistances to_centres_;
  // Of the clusters that had rows, and rows that were left open.
  std::vector<std::unique_ptr<CodeScreen::Worker>> workers_, markers_;
  std::vector<RowCandidates> found_;
  std::vector<double> within_;     // of each row: its nearest code is within this distance
  std::vector<double> distances_;  // [row][centre]
  std::vector<Visit> visits_;      // [row][cluster]
  std::vector<int64_t> rows_;
  std::vector<double> gathered_;
};

class ClustersScreen final : public CodeScreen {
 public:
  explicit ClustersScreen(Clusters clusters) : clusters_(std::move(clusters)) {}

  // Each cluster has a share of them.
  int64_t block_rows() const override { return kMostRows; }
  std::unique_ptr<Worker> worker() const override {
    return std::make_unique<ClustersWorker>(clusters_);
  }
  size_t bytes() const override {
    size_t sum = sizeof(*this) + clusters_.centres.size() * sizeof(double);
    for (const Cluster& cluster : clusters_.all) {
      sum += sizeof(cluster) + cluster.codes.size() * sizeof(int64_t);
      if (cluster.screen != nullptr) sum += cluster.screen->bytes();
    }
    return sum;
  }
  int64_t num_panels() const override { return 1; }

 private:
  const Clusters clusters_;
};

// Of products those of int16, which are told how near the nearest code is by now and save a lot by
// it; so fp32 must be much faster.
bool is_for_fp32(int64_t num_codes, int64_t dim, SimdLevel level) {
  const SearchCost cost(level, kRowsOfCluster, num_codes, dim);
  return 1.5 * cost.search(SearchWay::kFp32) < cost.search(SearchWay::kInt16);
}

// The number of a centre among those that there are, to which it is added if it is new: shells
// share theirs.
int64_t number_centre(const std::vector<double>& centre, std::vector<double>* centres) {
  const size_t dim = centre.size();
  for (size_t i = 0; i < centres->size(); i += dim) {
    if (std::equal(centre.begin(), centre.end(), centres->begin() + i)) {
      return static_cast<int64_t>(i / dim);
    }
  }
  centres->insert(centres->end(), centre.begin(), centre.end());
  return static_cast<int64_t>(centres->size() / dim) - 1;
}

}  // namespace

std::shared_ptr<const CodeScreen> make_screen_clusters(const CodeSource& source, SimdLevel level,
                                                       const Parallel& parallel) {
  if (source.num_codes < 1 || source.dim < 1 || source.dim > kMostDim) return nullptr;
  std::vector<CodeCluster> found = find_code_clusters(source, level, parallel);
  if (found.empty()) return nullptr;
  std::sort(found.begin(), found.end(),
            [](const CodeCluster& a, const CodeCluster& b) { return a.farthest < b.farthest; });
  Clusters clusters{source.num_codes, source.dim, level, {}, {}};
  for (CodeCluster& cluster : found) {
    const std::vector<int64_t> chosen = source.in_codebook(cluster.codes);
    const CodeSource codes = source.only(chosen);
    const bool in_fp32 = is_for_fp32(codes.num_codes, codes.dim, level);
    const auto make = in_fp32 ? make_screen_fp32 : make_screen_int16;
    clusters.all.push_back({make(codes, level, parallel), in_fp32, std::move(cluster.codes),
                            number_centre(cluster.centre, &clusters.centres), cluster.nearest,
                            cluster.farthest});
  }
  return std::make_shared<ClustersScreen>(std::move(clusters));
}

}  // namespace vqgan_fast
