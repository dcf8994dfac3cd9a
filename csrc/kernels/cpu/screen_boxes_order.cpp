#include "kernels/cpu/screen_boxes_order.h"

#include <algorithm>
#include <cstring>
#include <functional>
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

constexpr int kMostStride = 16;
constexpr int kBins = 256;

struct Node {
  int64_t begin, end;  // codes
  bool in_other;       // which of the two lists holds them
};

class Splitter {
 public:
  Splitter(CodeList list, CodeList other, int stride, int64_t leaf_codes, int64_t group_leaves)
      : lists_{list, other},
        stride_(stride),
        leaf_codes_(leaf_codes),
        group_leaves_(group_leaves) {}

  // Codes that go to the left of a node, 0 if it is a leaf. Groups stay whole.
  int64_t left_size(int64_t size) const {
    if (size <= leaf_codes_) return 0;
    const int64_t leaves = (size + leaf_codes_ - 1) / leaf_codes_;
    const int64_t unit = leaves > group_leaves_ ? group_leaves_ : 1;
    const int64_t units = (leaves + unit - 1) / unit;
    return (units + 1) / 2 * unit * leaf_codes_;
  }

  // Moves the codes of a node to the other list, the left_size smaller ones (in the widest
  // dimension) before the others.
  void split(const Node& node, int64_t left) {
    const CodeList from = lists_[node.in_other], to = lists_[!node.in_other];
    const int64_t size = node.end - node.begin;
    float lower = 0.0f;
    double width;
    const int axis = widest_axis(node, from, &lower, &width);
    if (!(width > 0.0)) {
      std::copy_n(from.elements + node.begin * stride_, size * stride_,
                  to.elements + node.begin * stride_);
      std::copy_n(from.codes + node.begin, size, to.codes + node.begin);
      return;
    }
    if (static_cast<int64_t>(bins_.size()) < size) bins_.resize(size);

    // The bin that holds the median; the order within it is decided afterwards.
    const int num_bins = static_cast<int>(std::clamp<int64_t>(size / 2, 16, kBins));
    const double per_width = num_bins / width;
    int32_t counts[2][kBins + 1] = {};
    const float* keys = from.elements + node.begin * stride_ + axis;
    for (int64_t i = 0; i < size; ++i) {
      const double position = (static_cast<double>(keys[i * stride_]) - lower) * per_width;
      const int bin = std::min(static_cast<int>(position), num_bins - 1);
      bins_[i] = static_cast<uint8_t>(bin);
      ++counts[i & 1][bin];
    }
    int middle = 0;
    int64_t below = 0;
    for (;; ++middle) {
      const int64_t here = counts[0][middle] + counts[1][middle];
      if (below + here > left || middle == num_bins - 1) break;
      below += here;
    }
    const int64_t within = counts[0][middle] + counts[1][middle];

    // Bins below, within and above the middle one, each at its own place.
    int64_t cursors[3] = {node.begin, node.begin + below, node.begin + below + within};
    for (int64_t i = 0; i < size; ++i) {
      const int bin = bins_[i];
      const int64_t target = cursors[(bin >= middle) + (bin > middle)]++;
      move(from, node.begin + i, to, target);
    }
    order_middle(node.begin + below, within, node.begin + left, axis, to, from);
  }

 private:
  int widest_axis(const Node& node, CodeList from, float* lower, double* width) const {
    const float* p = from.elements + node.begin * stride_;
    const float* end = from.elements + node.end * stride_;
    const int parts = stride_ / 4;
    Float4 lo[kMostStride / 4], hi[kMostStride / 4];
    for (int i = 0; i < parts; ++i) lo[i] = hi[i] = load(p + i * 4);
    if (parts == 1) {
      Float4 least = lo[0], most = hi[0];
      for (; p != end; p += 4) {
        const Float4 v = load(p);
        least = v < least ? v : least;
        most = v > most ? v : most;
      }
      lo[0] = least;
      hi[0] = most;
    } else if (parts == 2) {
      Float4 least[2] = {lo[0], lo[1]}, most[2] = {hi[0], hi[1]};
      for (; p != end; p += 8) {
        for (int i = 0; i < 2; ++i) {
          const Float4 v = load(p + i * 4);
          least[i] = v < least[i] ? v : least[i];
          most[i] = v > most[i] ? v : most[i];
        }
      }
      for (int i = 0; i < 2; ++i) {
        lo[i] = least[i];
        hi[i] = most[i];
      }
    } else {
      for (; p != end; p += stride_) {
        for (int i = 0; i < parts; ++i) {
          const Float4 v = load(p + i * 4);
          lo[i] = v < lo[i] ? v : lo[i];
          hi[i] = v > hi[i] ? v : hi[i];
        }
      }
    }
    int axis = 0;
    *width = -1.0;
    for (int d = 0; d < stride_; ++d) {
      const double extent = static_cast<double>(hi[d / 4][d % 4]) - lo[d / 4][d % 4];
      if (extent > *width) {
        *width = extent;
        *lower = lo[d / 4][d % 4];
        axis = d;
      }
    }
    return axis;
  }

  void move(CodeList from, int64_t i, CodeList to, int64_t target) const {
    const float* p = from.elements + i * stride_;
    float* q = to.elements + target * stride_;
    for (int d = 0; d < stride_; d += 4) std::memcpy(q + d, p + d, 16);
    to.codes[target] = from.codes[i];
  }

  // Puts the smaller ones of to[first .. first + count - 1] before place `left`. `spare` has room
  // at the same places.
  void order_middle(int64_t first, int64_t count, int64_t left, int axis, CodeList to,
                    CodeList spare) {
    if (left <= first || left >= first + count) return;
    order_.resize(count);
    for (int64_t i = 0; i < count; ++i) {
      order_[i] = {to.elements[(first + i) * stride_ + axis], static_cast<int32_t>(i)};
      move(to, first + i, spare, first + i);
    }
    std::nth_element(order_.begin(), order_.begin() + (left - first), order_.end());
    for (int64_t i = 0; i < count; ++i) move(spare, first + order_[i].second, to, first + i);
  }

  const CodeList lists_[2];
  const int stride_;
  const int64_t leaf_codes_;
  const int64_t group_leaves_;
  std::vector<uint8_t> bins_;
  std::vector<std::pair<float, int32_t>> order_;
};

}  // namespace

void order_codes(CodeList list, CodeList other, int64_t num_codes, int stride, int64_t leaf_codes,
                 int64_t group_leaves, const Parallel& parallel,
                 const std::function<void(int64_t first, int64_t end, CodeList done)>& leaf) {
  // Nodes of this size are tasks: small enough to share out, and what lies below stays in cache.
  const int64_t task_codes = parallel.num_threads > 1
                                 ? std::max<int64_t>(leaf_codes, num_codes / parallel.num_threads)
                                 : num_codes;
  std::vector<Node> tasks, open = {{0, num_codes, false}};
  Splitter top(list, other, stride, leaf_codes, group_leaves);
  while (!open.empty()) {
    const Node node = open.back();
    open.pop_back();
    const int64_t left = top.left_size(node.end - node.begin);
    if (node.end - node.begin <= task_codes || left == 0) {
      tasks.push_back(node);
      continue;
    }
    top.split(node, left);
    open.push_back({node.begin + left, node.end, !node.in_other});
    open.push_back({node.begin, node.begin + left, !node.in_other});
  }
  parallel.run(0, static_cast<int64_t>(tasks.size()), 1, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    Splitter splitter(list, other, stride, leaf_codes, group_leaves);
    for (int64_t t = begin; t < end; ++t) {
      std::vector<Node> stack = {tasks[t]};
      while (!stack.empty()) {
        const Node node = stack.back();
        stack.pop_back();
        const int64_t left = splitter.left_size(node.end - node.begin);
        if (left == 0) {
          leaf(node.begin, node.end, node.in_other ? other : list);
          continue;
        }
        splitter.split(node, left);
        stack.push_back({node.begin + left, node.end, !node.in_other});
        stack.push_back({node.begin, node.begin + left, !node.in_other});
      }
    }
  });
}

}  // namespace vqgan_fast
