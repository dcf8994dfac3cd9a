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
// A cluster of which products tell nothing is measured code by code if it has at most so many.
constexpr int64_t kMostListed = 1024;
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

class ClustersWorker final : public CodeScreen::Worker {
 public:
  explicit ClustersWorker(const Clusters& clusters)
      : clusters_(clusters),
        distances_(clusters.centres, clusters.dim, clusters.level),
        workers_(clusters.all.size()),
        markers_(clusters.all.size()),
        rows_of_(clusters.all.size()),
        found_(CodeScreen::kMostRows) {}

  void run(const double* z, int64_t num_rows, int64_t first_panel, int64_t last_panel,
           RowCandidates* out) override {
    for (int64_t r = 0; r < num_rows; ++r) {
      out[r].open = false;
      out[r].count = 0;
      out[r].many.clear();
    }
    if (first_panel == last_panel) return;
    choose_clusters(z, num_rows);
    for (size_t c = 0; c < workers_.size(); ++c) {
      if (!rows_of_[c].empty()) screen(z, c, out);
    }
  }

 private:
  // Lists for each cluster the rows whose nearest code it can hold.
  void choose_clusters(const double* z, int64_t num_rows) {
    const auto num_clusters = static_cast<int64_t>(clusters_.all.size());
    to_centres_.resize(num_rows * num_clusters);
    distances_.measure(z, num_rows, to_centres_.data());
    for (std::vector<int64_t>& rows : rows_of_) rows.clear();
    for (int64_t r = 0; r < num_rows; ++r) {
      double* to_centre = to_centres_.data() + r * num_clusters;
      double limit = std::numeric_limits<double>::infinity();
      for (int64_t c = 0; c < num_clusters; ++c) {
        to_centre[c] = std::sqrt(to_centre[c]);
        limit = std::min(limit, to_centre[c] + clusters_.all[c].farthest);
      }
      for (int64_t c = 0; c < num_clusters; ++c) {
        const Cluster& cluster = clusters_.all[c];
        const double error =
            kRounding * (to_centre[c] + cluster.farthest + limit) + kUnderflow;
        const double least =
            std::max(to_centre[c] - cluster.farthest, cluster.nearest - to_centre[c]);
        // Not the other way round: what is not a number excludes nothing.
        if (!(least > limit + error)) rows_of_[c].push_back(r);
      }
    }
  }

  void screen(const double* z, size_t c, RowCandidates* out) {
    const Cluster& cluster = clusters_.all[c];
    const std::vector<int64_t>& rows = rows_of_[c];
    if (cluster.screen == nullptr) {
      for (const int64_t r : rows) {
        out[r].open |= static_cast<int64_t>(cluster.codes.size()) > kMostListed;
        if (!out[r].open) {
          out[r].many.insert(out[r].many.end(), cluster.codes.begin(), cluster.codes.end());
        }
      }
      return;
    }
    if (workers_[c] == nullptr) workers_[c] = cluster.screen->worker();
    std::vector<int64_t> open = screen_rows(z, rows, cluster, workers_[c].get(), out);
    if (open.empty()) return;
    // Few of many: by themselves they are worth a second look, of a worker that expects it.
    if (markers_[c] == nullptr) markers_[c] = cluster.screen->worker();
    for (const int64_t r : screen_rows(z, open, cluster, markers_[c].get(), out)) {
      out[r].open = true;
    }
  }

  // Adds the candidates of these rows; returns those that are left open.
  std::vector<int64_t> screen_rows(const double* z, const std::vector<int64_t>& rows,
                                   const Cluster& cluster, CodeScreen::Worker* worker,
                                   RowCandidates* out) {
    std::vector<int64_t> open;
    const auto count = static_cast<int64_t>(rows.size());
    const int64_t block = std::min(cluster.screen->block_rows(), CodeScreen::kMostRows);
    for (int64_t first = 0; first < count; first += block) {
      const int64_t num_rows = std::min(block, count - first);
      gathered_.resize(num_rows * clusters_.dim);
      for (int64_t i = 0; i < num_rows; ++i) {
        std::copy_n(z + rows[first + i] * clusters_.dim, clusters_.dim,
                    gathered_.data() + i * clusters_.dim);
        found_[i].many.clear();  // of a screen that lists many; not all do
      }
      worker->run(gathered_.data(), num_rows, 0, cluster.screen->num_panels(), found_.data());
      for (int64_t i = 0; i < num_rows; ++i) {
        if (found_[i].open) {
          open.push_back(rows[first + i]);
        } else {
          add_candidates(found_[i], cluster.codes, out + rows[first + i]);
        }
      }
    }
    return open;
  }

  const Clusters& clusters_;
  PointDistances distances_;
  // Of the clusters that had rows, and rows that were left open.
  std::vector<std::unique_ptr<CodeScreen::Worker>> workers_, markers_;
  std::vector<std::vector<int64_t>> rows_of_;
  std::vector<double> to_centres_;  // [row][cluster]
  std::vector<double> gathered_;
  std::vector<RowCandidates> found_;
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

std::shared_ptr<const CodeScreen> make_products(const CodeSource& codes, SimdLevel level,
                                                const Parallel& parallel) {
  const SearchCost cost(level, kRowsOfCluster, codes.num_codes, codes.dim);
  return cost.search(SearchWay::kFp32) < cost.search(SearchWay::kInt16)
             ? make_screen_fp32(codes, level, parallel)
             : make_screen_int16(codes, level, parallel);
}

}  // namespace

std::shared_ptr<const CodeScreen> make_screen_clusters(const CodeSource& source, SimdLevel level,
                                                       const Parallel& parallel) {
  if (source.num_codes < 1 || source.dim < 1 || source.dim > kMostDim) return nullptr;
  std::vector<CodeCluster> found = find_code_clusters(source, level, parallel);
  if (found.empty()) return nullptr;
  Clusters clusters{source.dim, level, {}, {}};
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
