#include "kernels/cpu/screen_boxes_order.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu/float_mode.h"

namespace vqgan_fast {
namespace {

using Float4 = float __attribute__((vector_size(16)));

Float4 load(const float* p) {
  Float4 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

constexpr int kBins = 256;

// Codes of the list.
struct Node {
  int64_t begin, end;
};

// Where the codes of a node lie along the dimension in which they are widest.
struct Extent {
  int axis = 0;
  float lower = 0.0f;
  double width = -1.0;
};

template <int kStride>
class Splitter {
 public:
  Splitter(CodeList list, int64_t leaf_codes, int64_t group_leaves)
      : list_(list), leaf_codes_(leaf_codes), group_leaves_(group_leaves) {}

  // Codes that go to the left of a node, 0 if it is a leaf. Groups stay whole.
  int64_t left_size(const Node& node) const {
    const int64_t size = node.end - node.begin;
    if (size <= leaf_codes_) return 0;
    const int64_t leaves = (size + leaf_codes_ - 1) / leaf_codes_;
    const int64_t unit = leaves > group_leaves_ ? group_leaves_ : 1;
    const int64_t units = (leaves + unit - 1) / unit;
    return (units + 1) / 2 * unit * leaf_codes_;
  }

  // Moves the `left` smaller codes (in the widest dimension) of a node that is no leaf before the
  // others.
  void split(const Node& node, int64_t left) {
    const Extent extent = widest(node);
    if (!(extent.width > 0.0)) return;
    mark(node, extent, left);
    exchange(node, left);
  }

 private:
  Extent widest(const Node& node) const {
    // So many floats are whole vectors and whole codes.
    constexpr int kSpan = std::lcm(kStride, 4), kVectors = kSpan / 4;
    const float* p = list_.elements + node.begin * kStride;
    const float* const end = list_.elements + node.end * kStride;
    Float4 least[kVectors], most[kVectors];
    for (int i = 0; i < kVectors; ++i) least[i] = most[i] = load(p + i * 4);
    for (; end - p >= kSpan; p += kSpan) {
      for (int i = 0; i < kVectors; ++i) {
        const Float4 v = load(p + i * 4);
        least[i] = v < least[i] ? v : least[i];
        most[i] = v > most[i] ? v : most[i];
      }
    }
    float lower[kStride], upper[kStride];
    for (int d = 0; d < kStride; ++d) lower[d] = upper[d] = least[d / 4][d % 4];
    const auto take = [&](int d, float low, float high) {
      lower[d] = std::min(lower[d], low);
      upper[d] = std::max(upper[d], high);
    };
    for (int i = 0; i < kSpan; ++i) take(i % kStride, least[i / 4][i % 4], most[i / 4][i % 4]);
    for (int i = 0; p + i != end; ++i) take(i % kStride, p[i], p[i]);
    Extent found;
    for (int d = 0; d < kStride; ++d) {
      const double width = static_cast<double>(upper[d]) - lower[d];
      if (width > found.width) found = {d, lower[d], width};
    }
    return found;
  }

  // goes_right_[i] for each code of the node.
  void mark(const Node& node, const Extent& extent, int64_t left) {
    const int64_t size = node.end - node.begin;
    if (static_cast<int64_t>(goes_right_.size()) < size) goes_right_.resize(size);
    const float* const keys = list_.elements + node.begin * kStride + extent.axis;

    // The bin that holds the median; the order within it is decided afterwards.
    const int num_bins = static_cast<int>(std::clamp<int64_t>(size / 2, 16, kBins));
    const double per_width = num_bins / extent.width;
    int32_t counts[2][kBins] = {};
    for (int64_t i = 0; i < size; ++i) {
      const double position = (static_cast<double>(keys[i * kStride]) - extent.lower) * per_width;
      const int bin = std::min(static_cast<int>(position), num_bins - 1);
      goes_right_[i] = static_cast<uint8_t>(bin);
      ++counts[i & 1][bin];
    }
    int middle = 0;
    int64_t below = 0;
    for (;; ++middle) {
      const int64_t here = counts[0][middle] + counts[1][middle];
      if (below + here > left || middle == num_bins - 1) break;
      below += here;
    }

    within_.clear();
    within_.reserve(counts[0][middle] + counts[1][middle]);
    for (int64_t i = 0; i < size; ++i) {
      const int bin = goes_right_[i];
      goes_right_[i] = bin > middle;
      if (bin == middle) within_.emplace_back(keys[i * kStride], static_cast<int32_t>(i));
    }
    const auto first_right = within_.begin() + (left - below);
    std::nth_element(within_.begin(), first_right, within_.end());
    for (auto code = first_right; code != within_.end(); ++code) goes_right_[code->second] = 1;
  }

  // Exchanges the codes that are left of the border and go right with those that are right of it
  // and go left. There are as many of each, because mark() lets `left` codes go left.
  void exchange(const Node& node, int64_t left) const {
    // They are found some at a time: without a branch on each, which no CPU foresees.
    constexpr int kBatch = 128;
    struct Side {
      int64_t next, end;
      uint8_t wrong;
      int64_t found[kBatch];
      int count = 0, used = 0;
    };
    Side sides[2] = {{0, left, 1, {}}, {left, node.end - node.begin, 0, {}}};
    for (;;) {
      for (Side& side : sides) {
        if (side.used < side.count) continue;
        side.used = side.count = 0;
        for (const int64_t end = std::min(side.end, side.next + kBatch); side.next < end;) {
          side.found[side.count] = side.next;
          side.count += goes_right_[side.next++] == side.wrong;
        }
      }
      Side& a = sides[0];
      Side& b = sides[1];
      if (a.used == a.count && a.next == a.end) return;
      const int pairs = std::min(a.count - a.used, b.count - b.used);
      for (int i = 0; i < pairs; ++i) {
        exchange_two(node.begin + a.found[a.used++], node.begin + b.found[b.used++]);
      }
    }
  }

  void exchange_two(int64_t i, int64_t j) const {
    constexpr size_t kBytes = kStride * sizeof(float);
    float* const a = list_.elements + i * kStride;
    float* const b = list_.elements + j * kStride;
    float kept[kStride];
    std::memcpy(kept, a, kBytes);
    std::memcpy(a, b, kBytes);
    std::memcpy(b, kept, kBytes);
    std::swap(list_.codes[i], list_.codes[j]);
  }

  const CodeList list_;
  const int64_t leaf_codes_;
  const int64_t group_leaves_;
  std::vector<uint8_t> goes_right_;
  std::vector<std::pair<float, int32_t>> within_;  // of the middle bin
};

template <int kStride>
void order(CodeList list, int64_t num_codes, int64_t leaf_codes, int64_t group_leaves,
           const Parallel& parallel, const std::function<void(int64_t first, int64_t end)>& leaf) {
  // Nodes of this size are tasks: small enough to share out, and what lies below stays in cache.
  const int64_t task_codes = parallel.num_threads > 1
                                 ? std::max<int64_t>(leaf_codes, num_codes / parallel.num_threads)
                                 : num_codes;
  // Splits what `first` holds; calls done(node) for nodes of at most `size` codes and for leaves.
  const auto split_to = [&](const Node& first, int64_t size, const auto& done) {
    Splitter<kStride> splitter(list, leaf_codes, group_leaves);
    std::vector<Node> open = {first};
    while (!open.empty()) {
      const Node node = open.back();
      open.pop_back();
      const int64_t left = splitter.left_size(node);
      if (node.end - node.begin <= size || left == 0) {
        done(node);
        continue;
      }
      splitter.split(node, left);
      open.push_back({node.begin + left, node.end});
      open.push_back({node.begin, node.begin + left});
    }
  };
  std::vector<Node> tasks;
  split_to({0, num_codes}, task_codes, [&](const Node& node) { tasks.push_back(node); });
  parallel.run(0, static_cast<int64_t>(tasks.size()), 1, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    for (int64_t t = begin; t < end; ++t) {
      split_to(tasks[t], 0, [&](const Node& node) { leaf(node.begin, node.end); });
    }
  });
}

decltype(&order<1>) order_for(int stride) {
  switch (stride) {
    case 1:
      return order<1>;
    case 2:
      return order<2>;
    case 3:
      return order<3>;
    case 4:
      return order<4>;
    case 6:
      return order<6>;
    case 8:
      return order<8>;
    case 12:
      return order<12>;
    case 16:
      return order<16>;
    default:
      throw std::logic_error("no padded dimension: " + std::to_string(stride));
  }
}

}  // namespace

void order_codes(CodeList list, int64_t num_codes, int64_t leaf_codes, int64_t group_leaves,
                 const Parallel& parallel,
                 const std::function<void(int64_t first, int64_t end)>& leaf) {
  order_for(list.stride)(list, num_codes, leaf_codes, group_leaves, parallel, leaf);
}

}  // namespace vqgan_fast
