#include "kernels/cpu/code_clusters.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "kernels/cpu/code_regions.h"
#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/point_distances.h"

namespace vqgan_fast {
namespace {

// Clusters of fewer codes than this, or one in so many of all, are not split again.
constexpr int64_t kLeastToSplit = 256, kShareToSplit = 64;
// What a sample missed, and clusters in clusters, are found when clusters are split again, while
// there are not many.
constexpr int kMostSplits = 3;
constexpr int64_t kMostSamples = 256;  // at first
constexpr int64_t kManyClusters = 64, kFewClusters = 4, kManyElements = 1 << 16;
// Codes that are measured at a time.
constexpr int64_t kBlockCodes = 96;

// What the regions hold of the codes.
std::vector<CodeCluster> assign(const CodeSource& source, const CodeRegions& regions,
                                SimdLevel level, const Parallel& parallel) {
  const int64_t num_codes = source.num_codes, dim = source.dim;
  const auto num_regions = regions.count();
  std::vector<int32_t> region(num_codes);
  std::vector<double> distance(num_codes);
  const int64_t num_blocks = (num_codes + kBlockCodes - 1) / kBlockCodes;
  parallel.run(0, num_blocks, 4, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    CodeReader reader(source);
    PointDistances to_centres(regions.centres, dim, level);
    const auto num_centres = static_cast<int64_t>(regions.centres.size()) / dim;
    std::vector<double> codes(kBlockCodes * dim), distances2(kBlockCodes * num_centres);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * kBlockCodes, count = std::min(kBlockCodes, num_codes - first);
      reader.load(first, count, codes.data());
      to_centres.measure(codes.data(), count, distances2.data());
      for (int64_t i = 0; i < count; ++i) {
        const auto distance_to = [&](int64_t g) {
          return std::sqrt(distances2[i * num_centres + regions.centre_of(g)]);
        };
        int64_t nearest = num_regions - 1;
        for (int64_t g = 0; g < num_regions - 1; ++g) {
          if (!(distance_to(g) <= regions.reaches[g])) continue;
          if (nearest == num_regions - 1 || distance_to(g) < distance_to(nearest)) nearest = g;
        }
        region[first + i] = static_cast<int32_t>(nearest);
        distance[first + i] = distance_to(nearest);
      }
    }
  });
  std::vector<CodeCluster> clusters(num_regions);
  for (int64_t k = 0; k < num_codes; ++k) {
    if (std::isnan(distance[k])) continue;  // so is an element of the code: it is never chosen
    CodeCluster& cluster = clusters[region[k]];
    cluster.codes.push_back(k);
    cluster.nearest = std::min(cluster.nearest, distance[k]);
    cluster.farthest = std::max(cluster.farthest, distance[k]);
  }
  for (int64_t g = 0; g < num_regions; ++g) {
    const auto centre = regions.centres.begin() + regions.centre_of(g) * dim;
    clusters[g].centre.assign(centre, centre + dim);
  }
  return clusters;
}

// None where there is nothing to split.
std::vector<CodeCluster> split(const CodeSource& source, int64_t max_samples, double hollow,
                               SimdLevel level, const Parallel& parallel) {
  const CodeRegions regions = find_code_regions(source, max_samples, hollow, level);
  if (regions.count() == 0) return {};
  std::vector<CodeCluster> clusters = assign(source, regions, level, parallel);
  const auto is_empty = [](const CodeCluster& cluster) { return cluster.codes.empty(); };
  clusters.erase(std::remove_if(clusters.begin(), clusters.end(), is_empty), clusters.end());
  if (clusters.size() < 2) clusters.clear();
  for (CodeCluster& cluster : clusters) cluster.is_shell = regions.are_shells;
  return clusters;
}

}  // namespace

std::vector<CodeCluster> find_code_clusters(const CodeSource& source, SimdLevel level,
                                            const Parallel& parallel) {
  const DefaultFloatMode float_mode;
  const int64_t least = std::max(kLeastToSplit, source.num_codes / kShareToSplit);
  // Each thread has memory for the rows of each cluster.
  const int64_t many = std::clamp(kManyElements / source.dim, kFewClusters, kManyClusters);
  std::vector<CodeCluster> found = split(source, kMostSamples, 0.0, level, parallel);
  for (int depth = 1; depth < kMostSplits; ++depth) {
    std::vector<CodeCluster> finer;
    for (size_t i = 0; i < found.size(); ++i) {
      CodeCluster& cluster = found[i];
      std::vector<CodeCluster> parts;
      const bool few = static_cast<int64_t>(finer.size() + found.size() - i) < many;
      if (few && !cluster.is_whole && static_cast<int64_t>(cluster.codes.size()) >= least) {
        const std::vector<int64_t> chosen = source.in_codebook(cluster.codes);
        const double hollow = cluster.is_shell ? cluster.nearest : 0.0;
        parts = split(source.only(chosen), kMostSamples / 2, hollow, level, parallel);
      }
      for (CodeCluster& part : parts) {
        for (int64_t& code : part.codes) code = cluster.codes[code];
      }
      if (parts.empty()) {
        cluster.is_whole = true;
        parts.push_back(std::move(cluster));
      }
      std::move(parts.begin(), parts.end(), std::back_inserter(finer));
    }
    found = std::move(finer);
  }
  return found;
}

}  // namespace vqgan_fast
