#include "kernels/cpu/code_regions.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "kernels/cpu/point_distances.h"
#include "kernels/cpu/row_block.h"

namespace vqgan_fast {
namespace {

constexpr int64_t kLeastSamples = 64, kCodesToSample = 4;
constexpr int64_t kMostElements = 1 << 20;  // of all samples
// Clusters are apart where no code is between them for so many times the steps within them.
constexpr double kApart = 4.0;
// One of them must hold one in kShareLargest of the codes, or lists of candidates are short anyway;
// smaller ones than one in kShareLeast stay with the rest.
constexpr int64_t kShareLargest = 32, kShareLeast = 64;
// Fewer samples may be near each other by chance; half as many where others are not.
constexpr int64_t kFewSamples = 8;
// Of the largest distance that a sample has from a centre: what else belongs to it.
constexpr double kReach = 2.0;
// Shells begin around the sample that is nearest to one in kShareNear of the others, so many times
// as far as those; each is so many times as wide as the one before.
constexpr int64_t kShareNear = 16, kLeastOfShell = 2;
constexpr double kFirstShell = 4.0, kShellRatio = 8.0;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Samples {
  int64_t count = 0;
  int64_t dim;
  std::vector<double> elements;   // [sample][dim]
  std::vector<double> distances;  // [sample][sample]
};

// Finite codes, one from a random place in each of as many parts of the codebook; none if there are
// too few.
Samples take_samples(const CodeSource& source, int64_t max_samples, SimdLevel level) {
  Samples samples{0, source.dim, {}, {}};
  const int64_t most =
      std::min({max_samples, source.num_codes / kCodesToSample, kMostElements / source.dim});
  if (most < kLeastSamples) return samples;
  std::vector<double> code(source.dim);
  // Where a cluster is said to be need not be true.
  CodeReader reader(source.unchecked());
  std::minstd_rand random;
  for (int64_t i = 0; i < most; ++i) {
    const int64_t first = i * source.num_codes / most;
    const int64_t size = (i + 1) * source.num_codes / most - first;
    const auto offset = static_cast<int64_t>(random()) % size;
    reader.load(first + offset, 1, code.data());
    if (!all_finite(code.data(), source.dim)) continue;
    samples.elements.insert(samples.elements.end(), code.begin(), code.end());
    ++samples.count;
  }
  if (samples.count < kLeastSamples) return {0, source.dim, {}, {}};
  samples.distances.resize(samples.count * samples.count);
  PointDistances(samples.elements, source.dim, level)
      .measure(samples.elements.data(), samples.count, samples.distances.data());
  for (double& distance : samples.distances) distance = std::sqrt(distance);
  return samples;
}

// The shortest tree that spans all samples: each but sample order[0] hangs on one before it.
struct SpanningTree {
  std::vector<int64_t> order, parent;
  std::vector<double> edge;  // to the parent
};

SpanningTree spanning_tree(const Samples& samples) {
  const int64_t count = samples.count;
  SpanningTree tree;
  tree.parent.assign(count, 0);
  tree.edge.assign(count, kInfinity);
  std::vector<int64_t> left(count);
  std::iota(left.begin(), left.end(), 0);
  size_t next = 0;  // place of the nearest one among those that are left
  while (!left.empty()) {
    const int64_t sample = left[next];
    left[next] = left.back();
    left.pop_back();
    tree.order.push_back(sample);
    double least = kInfinity;
    for (size_t i = 0; i < left.size(); ++i) {
      const int64_t other = left[i];
      const double edge = samples.distances[sample * count + other];
      if (edge < tree.edge[other]) {
        tree.edge[other] = edge;
        tree.parent[other] = sample;
      }
      if (i > 0 && !(tree.edge[other] < least)) continue;
      least = tree.edge[other];
      next = i;
    }
  }
  return tree;
}

// The group of each sample where edges above `cut` are cut.
std::vector<int64_t> groups_below(const SpanningTree& tree, double cut, int64_t* num_groups) {
  std::vector<int64_t> group(tree.order.size());
  *num_groups = 0;
  for (size_t i = 0; i < tree.order.size(); ++i) {
    const int64_t sample = tree.order[i];
    const bool hangs = i > 0 && tree.edge[sample] <= cut;
    group[sample] = hangs ? group[tree.parent[sample]] : (*num_groups)++;
  }
  return group;
}

// The group of each sample, -1 for those in none: the smallest clusters that are apart and large
// enough.
std::vector<int64_t> group_samples(const SpanningTree& tree, int64_t* num_groups) {
  const auto count = static_cast<int64_t>(tree.order.size());
  std::vector<double> edges;
  for (int64_t i = 1; i < count; ++i) edges.push_back(tree.edge[tree.order[i]]);
  std::sort(edges.begin(), edges.end());
  for (size_t i = 0; i + 1 < edges.size(); ++i) {
    if (!(edges[i + 1] > kApart * edges[i])) continue;
    std::vector<int64_t> group = groups_below(tree, edges[i], num_groups);
    std::vector<int64_t> sizes(*num_groups), kept(*num_groups, -1);
    for (const int64_t g : group) ++sizes[g];
    const int64_t largest = *std::max_element(sizes.begin(), sizes.end());
    if (largest < std::max(count / kShareLargest, kFewSamples)) continue;
    int64_t num_kept = 0;  // a single one may still be cut from others, farther away
    for (int64_t g = 0; g < *num_groups; ++g) {
      if (sizes[g] >= std::max(count / kShareLeast, kFewSamples / 2)) kept[g] = num_kept++;
    }
    if (num_kept < 2) continue;
    for (int64_t& g : group) g = kept[g];
    *num_groups = num_kept;
    return group;
  }
  *num_groups = 0;
  return {};
}

// Regions around clusters, and one for the rest; none unless there are two clusters.
CodeRegions regions_of_groups(const Samples& samples) {
  int64_t num_groups = 0;
  const std::vector<int64_t> group = group_samples(spanning_tree(samples), &num_groups);
  if (num_groups == 0) return {};
  const int64_t dim = samples.dim;
  const auto place = [&](int64_t i) { return group[i] < 0 ? num_groups : group[i]; };
  CodeRegions regions{std::vector<double>((num_groups + 1) * dim, 0.0),
                      std::vector<double>(num_groups, 0.0)};
  std::vector<int64_t> sizes(num_groups + 1, 0);
  for (int64_t i = 0; i < samples.count; ++i) ++sizes[place(i)];
  for (int64_t i = 0; i < samples.count; ++i) {
    double* centre = regions.centres.data() + place(i) * dim;
    for (int64_t d = 0; d < dim; ++d) {
      centre[d] += samples.elements[i * dim + d] / static_cast<double>(sizes[place(i)]);
    }
  }
  for (int64_t i = 0; i < samples.count; ++i) {
    if (group[i] < 0) continue;
    const double* centre = regions.centres.data() + group[i] * dim;
    double sum = 0.0;
    for (int64_t d = 0; d < dim; ++d) {
      const double x = samples.elements[i * dim + d] - centre[d];
      sum += x * x;
    }
    double& reach = regions.reaches[group[i]];
    reach = std::max(reach, kReach * std::sqrt(sum));
  }
  regions.reaches.push_back(kInfinity);
  return regions;
}

// Shells around the sample that has most others near it.
CodeRegions regions_of_shells(const Samples& samples, double hollow) {
  const int64_t count = samples.count, near = count / kShareNear;
  std::vector<double> nearest(count, kInfinity), sorted(count);
  for (int64_t i = 0; i < count; ++i) {
    std::copy_n(samples.distances.begin() + i * count, count, sorted.begin());
    std::nth_element(sorted.begin(), sorted.begin() + near, sorted.end());
    nearest[i] = sorted[near];
  }
  const int64_t middle = std::min_element(nearest.begin(), nearest.end()) - nearest.begin();
  std::copy_n(samples.distances.begin() + middle * count, count, sorted.begin());
  std::sort(sorted.begin(), sorted.end());
  CodeRegions regions;
  regions.are_shells = true;
  double reach = kFirstShell * sorted[near];
  if (!(reach > 0.0) || (hollow > 0.0 && reach > hollow)) return {};
  int64_t inside = 0;  // of the shells so far
  for (; reach < sorted.back(); reach *= kShellRatio) {
    const int64_t within = std::upper_bound(sorted.begin(), sorted.end(), reach) - sorted.begin();
    if (within - inside < kLeastOfShell) continue;
    regions.reaches.push_back(reach);
    inside = within;
  }
  // A few codes may lie farther than any sample does.
  regions.reaches.push_back(kReach * sorted.back());
  regions.reaches.push_back(kInfinity);
  const auto centre = samples.elements.begin() + middle * samples.dim;
  regions.centres.assign(centre, centre + samples.dim);
  return regions;
}

}  // namespace

CodeRegions find_code_regions(const CodeSource& source, int64_t max_samples, double hollow,
                              SimdLevel level) {
  const Samples samples = take_samples(source, max_samples, level);
  if (samples.count == 0) return {};
  CodeRegions regions = regions_of_groups(samples);
  return regions.count() > 0 ? regions : regions_of_shells(samples, hollow);
}

}  // namespace vqgan_fast
