// A row before the int16 images of the codes: which leaves have no code within its limit. Included
// by screen_boxes_search.h, whose remarks hold here too.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cpu/box_sieve.h"
#include "kernels/cpu/screen_boxes_row.h"

namespace vqgan_fast {
namespace {

// What the images of a row and a code can lose of their distance: 1.0025 sqrt(8).
constexpr double kRounding = 2.84;
// A row that has fewer leaves to visit is done sooner without.
constexpr int kLeastSifted = 8;
// Where the limit is a smaller multiple of kRounding, too many leaves would pass.
constexpr double kLeastReach = 4.0;

// Takes away leaves that have no code within the row's limit. docs/numerics.md, "The sieve".
template <class V, int kDim>
class Sieve {
 public:
  explicit Sieve(const BoxTree& tree) : tree_(tree) {}

  // Whether the row is one to sift for.
  bool start(const BoxRow<kDim>& row) {
    if (tree_.sieve == nullptr) return false;
    float u[kDim], largest = 0.0f;
    for (int d = 0; d < kDim; ++d) {
      u[d] = (row.x[d] - tree_.middle[d]) * tree_.sieve_scale;
      largest = std::fabs(u[d]) > largest ? std::fabs(u[d]) : largest;
    }
    if (!(largest <= kMostRowImage)) return false;
    int32_t twice[kDim], norm2 = 0;
    for (int d = 0; d < kDim; ++d) {
      const int32_t image = round_image(u[d]);
      norm2 += image * image;
      twice[d] = -2 * image;
    }
    for (int d = 0; d < kDim; d += 2) {
      twice_[d / 2] = V::broadcast_int(pair_of_images(twice[d], twice[d + 1]));
    }
    norm2_ = norm2;
    set_limit(row);
    return reach(row) >= kLeastReach * kRounding;
  }

  // To be told of every new limit.
  void set_limit(const BoxRow<kDim>& row) {
    const double most = reach(row) + kRounding;
    const double limit = most * most - norm2_ + 1.0;
    limit_ = V::broadcast_int(limit < INT32_MAX ? static_cast<int32_t>(limit) : INT32_MAX);
  }

  // Takes away those of at most kLeavesAtOnce leaves; returns how many stay.
  [[gnu::always_inline]] int sift(int32_t* leaves, int num_leaves) const {
    alignas(64) int32_t sums[kLeavesAtOnce * V::kLanes];
    auto least = V::broadcast_int(INT32_MAX);
    for (int n = 0; n < num_leaves; ++n) {
      const int16_t* images = tree_.sieve + leaves[n] * sieve_leaf_size(kDim);
      auto leaf_least = V::broadcast_int(INT32_MAX);
      for (int lane = 0; lane < kLeafCodes; lane += V::kLanes) {
        auto sum = V::load_ints(images + kDim * kLeafCodes + lane * 2);
        for (int d = 0; d < kDim; d += 2) {
          sum =
              V::add_products(sum, twice_[d / 2], V::load_ints(images + d * kLeafCodes + lane * 2));
        }
        leaf_least = V::min_ints(leaf_least, sum);
      }
      V::store_ints(sums + n * V::kLanes, leaf_least);
      least = V::min_ints(least, leaf_least);
    }
    if (!V::any_at_most(least, limit_)) return 0;
    return those_within(sums, leaves, num_leaves);
  }

 private:
  int those_within(const int32_t* sums, int32_t* leaves, int num_leaves) const {
    int kept = 0;
    for (int n = 0; n < num_leaves; ++n) {
      leaves[kept] = leaves[n];
      kept += V::any_at_most(V::load_ints(sums + n * V::kLanes), limit_);
    }
    return kept;
  }

  // In units of images: no code within the limit is farther from the row.
  double reach(const BoxRow<kDim>& row) const {
    return tree_.sieve_scale * std::sqrt(row.limit * (1.0 + 0x1p-20) + 0x1p-140);
  }

  const BoxTree& tree_;
  typename V::Ints twice_[kDim / 2];  // -2 times the row's image, two elements in each lane
  typename V::Ints limit_;
  double norm2_ = 0.0;
};

}  // namespace
}  // namespace vqgan_fast
