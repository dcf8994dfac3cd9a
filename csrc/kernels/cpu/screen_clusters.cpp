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

// Sums of the definition err by less, relative to a distance, and by less absolutely when they
// underflow.
constexpr double kRounding = 0x1p-30, kUnderflow = 0x1p-500;
constexpr int64_t kMostDim = 16384;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
// A cluster of which products tell too little is measured code by code if it has at most one in so
// many of all codes, and not more than so many.
constexpr int64_t kShareListed = 16, kMostListed = 1024;
// Rows that pass over a cluster together, as the way to screen it is chosen.
constexpr int64_t kRowsOfCluster = 64;

struct Cluster {
  std::shared_ptr<const CodeScreen> screen;  // null: no bound within the cluster
  std::vector<int64_t> codes;                // as the codebook numbers them
  double nearest, farthest;                  // from the centre
};

struct Clusters {
  int64_t dim;
  SimdLevel level;
  int64_t most_listed;  // codes of a cluster
  std::vector<Cluster> all;
  std::vector<double> centres;  // [cluster][dim]
};

// Adds what a screen found among the codes of a cluster.
void add_candidates(const RowCandidates& found, const std::vector<int64_t>& codes,
                    RowCandidates* row) {
  const auto add = [&](int64_t code) {
    if (row->many.empty() && row->count < RowCandidates::kMost) {
      row->codes[row->count++] = codes[code];
      return;
    }
    row->many.insert(row->many.end(), row->codes, row->codes + row->count);
    row->count = 0;
    row->many.push_back(codes[code]);
  };
  for (int i = 0; i < found.count; ++i) add(found.codes[i]);
  for (const int64_t code : found.many) add(code);
}

// A row may be nearest to codes of several clusters, but each that is done makes it fewer: so those
// come first that it lies in, from small to large ones.
class ClustersWorker final : public CodeScreen::Worker {
 public:
  explicit ClustersWorker(const Clusters& clusters)
      : clusters_(clusters),
        to_centres_(clusters.centres, clusters.dim, clusters.level),
        workers_(clusters.all.size()),
        markers_(clusters.all.size()),
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
    const auto num_clusters = static_cast<int64_t>(clusters_.all.size());
    distances_.resize(num_rows * num_clusters);
    to_centres_.measure(z, num_rows, distances_.data());
    for (double& distance : distances_) distance = std::sqrt(distance);
    for (int64_t r = 0; r < num_rows; ++r) {
      within_[r] = kInfinity;
      for (int64_t c = 0; c < num_clusters; ++c) {
        lower_within(r, distance(r, c) + clusters_.all[c].farthest);
      }
    }
    left_.assign(num_rows * num_clusters, Visit::kNotYet);
    for (int64_t c = 0; c < num_clusters; ++c) {
      visit(z, num_rows, c, out,
            [&](int64_t r) { return left(r, c) == Visit::kNotYet && least(r, c) <= 0.0; });
    }
    for (int64_t c = 0; c < num_clusters; ++c) {
      visit(z, num_rows, c, out, [&](int64_t r) { return left(r, c) == Visit::kNotYet; });
    }
    // Few of many rows: by themselves they are worth a second look, of a worker that expects them.
    for (int64_t c = 0; c < num_clusters; ++c) {
      visit(z, num_rows, c, out, [&](int64_t r) { return left(r, c) == Visit::kOpen; });
    }
  }

 private:
  enum class Visit : char { kNotYet, kOpen, kDone };

  double distance(int64_t r, int64_t c) const {
    return distances_[r * static_cast<int64_t>(clusters_.all.size()) + c];
  }
  Visit& left(int64_t r, int64_t c) {
    return left_[r * static_cast<int64_t>(clusters_.all.size()) + c];
  }
  // No code of the cluster is nearer.
  double least(int64_t r, int64_t c) const {
    const Cluster& cluster = clusters_.all[c];
    return std::max(distance(r, c) - cluster.farthest, cluster.nearest - distance(r, c));
  }
  // Some code is as near.
  void lower_within(int64_t r, double distance) {
    within_[r] = std::min(within_[r], distance * (1.0 + kRounding) + kUnderflow);
  }
  bool is_excluded(int64_t r, int64_t c) const {
    const double error =
        kRounding * (distance(r, c) + clusters_.all[c].farthest + within_[r]) + kUnderflow;
    // What is not a number excludes nothing.
    return least(r, c) > within_[r] + error;
  }

  // Searches a cluster for those rows that want it and can have their nearest code in it.
  template <class Wants>
  void visit(const double* z, int64_t num_rows, int64_t c, RowCandidates* out, const Wants& wants) {
    rows_.clear();
    bool again = false;
    for (int64_t r = 0; r < num_rows; ++r) {
      if (out[r].open || !wants(r) || is_excluded(r, c)) continue;
      again |= left(r, c) == Visit::kOpen;
      rows_.push_back(r);
    }
    if (rows_.empty()) return;
    const Cluster& cluster = clusters_.all[c];
    if (cluster.screen == nullptr) {
      for (const int64_t r : rows_) list_all(cluster, r, out);
      return;
    }
    std::unique_ptr<CodeScreen::Worker>& worker = again ? markers_[c] : workers_[c];
    if (worker == nullptr) worker = cluster.screen->worker();
    const auto count = static_cast<int64_t>(rows_.size());
    const int64_t block = std::min(cluster.screen->block_rows(), CodeScreen::kMostRows);
    for (int64_t first = 0; first < count; first += block) {
      screen(z, rows_.data() + first, std::min(block, count - first), c, worker.get(), out);
    }
  }

  // What no product decides is measured, if it is little.
  void list_all(const Cluster& cluster, int64_t r, RowCandidates* out) const {
    out[r].open = static_cast<int64_t>(cluster.codes.size()) > clusters_.most_listed;
    if (out[r].open) return;
    out[r].many.insert(out[r].many.end(), cluster.codes.begin(), cluster.codes.end());
  }

  void screen(const double* z, const int64_t* rows, int64_t num_rows, int64_t c,
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
      const int64_t r = rows[i];
      Visit& of_row = left(r, c);
      if (found_[i].open) {
        if (of_row == Visit::kOpen) list_all(cluster, r, out);
        of_row = Visit::kOpen;
        continue;
      }
      of_row = Visit::kDone;
      add_candidates(found_[i], cluster.codes, out + r);
      lower_within(r, std::sqrt(found_[i].within2));
    }
  }

  const Clusters& clusters_;
  PointDistances to_centres_;
  // Of the clusters that had rows, and rows that were left open.
  std::vector<std::unique_ptr<CodeScreen::Worker>> workers_, markers_;
  std::vector<RowCandidates> found_;
  std::vector<double> within_;     // of each row: its nearest code is within this distance
  std::vector<double> distances_;  // [row][cluster]: to the centre
  std::vector<Visit> left_;        // [row][cluster]
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

// int16 is told how near the nearest code is by now, which saves it a lot; so fp32 must be much
// faster.
std::shared_ptr<const CodeScreen> make_products(const CodeSource& codes, SimdLevel level,
                                                const Parallel& parallel) {
  const SearchCost cost(level, kRowsOfCluster, codes.num_codes, codes.dim);
  return 1.5 * cost.search(SearchWay::kFp32) < cost.search(SearchWay::kInt16)
             ? make_screen_fp32(codes, level, parallel)
             : make_screen_int16(codes, level, parallel);
}

}  // namespace

std::shared_ptr<const CodeScreen> make_screen_clusters(const CodeSource& source, SimdLevel level,
                                                       const Parallel& parallel) {
  if (source.num_codes < 1 || source.dim < 1 || source.dim > kMostDim) return nullptr;
  std::vector<CodeCluster> found = find_code_clusters(source, level, parallel);
  if (found.empty()) return nullptr;
  std::sort(found.begin(), found.end(),
            [](const CodeCluster& a, const CodeCluster& b) { return a.farthest < b.farthest; });
  const int64_t most_listed = std::min(source.num_codes / kShareListed, kMostListed);
  Clusters clusters{source.dim, level, most_listed, {}, {}};
  for (CodeCluster& cluster : found) {
    const std::vector<int64_t> chosen = source.in_codebook(cluster.codes);
    std::shared_ptr<const CodeScreen> screen = make_products(source.only(chosen), level, parallel);
    clusters.all.push_back(
        {std::move(screen), std::move(cluster.codes), cluster.nearest, cluster.farthest});
    clusters.centres.insert(clusters.centres.end(), cluster.centre.begin(), cluster.centre.end());
  }
  return std::make_shared<ClustersScreen>(std::move(clusters));
}

}  // namespace vqgan_fast
