#include "kernels/cpu/box_codebook.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/box_sieve.h"
#include "kernels/cpu/codebook_centre.h"
#include "kernels/cpu/float_mode.h"

namespace vqgan_fast {
namespace {

// A row is far when it is this many times as far from the middle of the codes as they can be.
// Nearer ones lose nothing by squared distances.
constexpr double kFarRadii = 16.0;
// Below this radius the products of far rows might underflow.
constexpr double kLeastRadius = 0x1p-60;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kPaddedDims[] = {1, 2, 3, 4, 6, 8, 12, 16};
constexpr int64_t kMostCodes = int64_t{kPlaceMask + 1} * kGroupBoxes * kLeafCodes;
// From this number of groups on, branches are searched before leaves.
constexpr int64_t kLeastBranches = 8;
// Within these the largest element of the codebook needs no scaling.
constexpr double kLeastUnscaled = 0x1p-40;
constexpr double kMostUnscaled = 0x1p40;
// Beyond these the fp64 sums of the definition itself may underflow or overflow.
constexpr double kLeastScaled = 0x1p-400;
constexpr double kMostScaled = 0x1p400;

// What was met in the codes.
struct LoadedCodes {
  double largest = 0.0;  // absolute element, centred but not scaled
  bool exact = true;     // in fp32
  bool finite = true;    // all of them; those that are not have index -1 in the list
};

LoadedCodes load_codes(const CodeSource& source, const Parallel& parallel, const BoxTree& tree,
                       CodeList list) {
  constexpr int64_t kBlock = 128;
  const int dim = tree.dim;
  struct Seen {
    double largest = 0.0, lost = 0.0;
    bool finite = true;
  };
  const int64_t num_blocks = (source.num_codes + kBlock - 1) / kBlock;
  std::vector<Seen> seen(num_blocks);
  parallel.run(0, num_blocks, 8, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    CodeReader reader(source);
    double codes[kBlock * kMostBoxDim];
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * kBlock, count = std::min(kBlock, source.num_codes - first);
      reader.load(first, count, codes);
      Seen here;
      for (int64_t i = 0; i < count; ++i) {
        const double* code = codes + i * dim;
        float* out = list.elements + (first + i) * list.stride;
        double sum = 0.0;
        for (int d = 0; d < dim; ++d) sum += code[d] * 0.0;
        const bool finite = sum == 0.0;
        list.codes[first + i] = finite ? static_cast<int32_t>(first + i) : -1;
        here.finite &= finite;
        for (int d = dim; d < list.stride; ++d) out[d] = 0.0f;
        for (int d = 0; d < dim; ++d) {
          const double centred = finite ? code[d] - tree.centre[d] : 0.0;
          const double scaled = centred * tree.scale;
          const float rounded = static_cast<float>(scaled);
          here.largest = std::max(here.largest, std::fabs(centred));
          here.lost += std::fabs(static_cast<double>(rounded) - scaled);
          out[d] = rounded;
        }
      }
      seen[b] = here;
    }
  });
  LoadedCodes loaded;
  for (const Seen& block : seen) {
    loaded.largest = std::max(loaded.largest, block.largest);
    loaded.exact &= block.lost == 0.0;
    loaded.finite &= block.finite;
  }
  return loaded;
}

// Drops the codes that are not finite, and returns how many are left.
int64_t drop_others(CodeList list, int64_t num_codes) {
  int64_t count = 0;
  for (int64_t i = 0; i < num_codes; ++i) {
    if (list.codes[i] < 0) continue;
    if (count < i) {
      list.codes[count] = list.codes[i];
      std::copy_n(list.elements + i * list.stride, list.stride,
                  list.elements + count * list.stride);
    }
    ++count;
  }
  return count;
}

bool out_of(double largest, double least, double most) {
  return !(largest >= least && largest <= most);
}

}  // namespace

bool BoxCodebook::pack(const CodeSource& source, bool with_sieve, const Parallel& parallel) {
  const int64_t num_codes = source.num_codes, dim = source.dim;
  if (dim > kMostBoxDim || num_codes > kMostCodes) return false;
  const DefaultFloatMode float_mode;
  tree_.dim = static_cast<int>(dim);
  tree_.padded_dim = padded_box_dim(dim);

  // The codes are put in order where their leaves will be.
  room_ = (num_codes + kLeafCodes - 1) / kLeafCodes * kLeafCodes;
  panels_ = allocate_array<float>(room_ * tree_.padded_dim);
  codes_ = allocate_array<int32_t>(room_);
  const CodeList list = {panels_.get(), codes_.get(), tree_.padded_dim};
  LoadedCodes loaded = load_codes(source, parallel, tree_, list);
  if (out_of(loaded.largest, kLeastScaled, kMostScaled)) return false;
  if (out_of(loaded.largest, kLeastUnscaled, kMostUnscaled)) {
    tree_.scale = std::ldexp(1.0, -std::ilogb(loaded.largest));
    loaded = load_codes(source, parallel, tree_, list);
  }
  if (!loaded.exact) {
    // Rounding is relative to the elements: it hurts least near the middle.
    const std::vector<double> centre = find_centre(source);
    std::copy(centre.begin(), centre.end(), tree_.centre);
    tree_.centred = true;
    tree_.scale = 1.0;
    loaded = load_codes(source, parallel, tree_, list);
    if (out_of(loaded.largest, kLeastScaled, kMostScaled)) return false;
    tree_.scale = std::ldexp(1.0, -std::ilogb(loaded.largest));
    loaded = load_codes(source, parallel, tree_, list);
    tree_.code_error =
        0x1.01p-24 * std::sqrt(static_cast<double>(dim)) * (loaded.largest * tree_.scale);
  }
  // Another thread may have written to the codebook since its scale was found.
  if (!(loaded.largest * tree_.scale <= kMostUnscaled)) return false;
  const int64_t count = loaded.finite ? num_codes : drop_others(list, num_codes);
  if (count == 0) return false;  // nor need there be the finite codes that were seen

  tree_.num_leaves = (count + kLeafCodes - 1) / kLeafCodes;
  tree_.num_groups = (tree_.num_leaves + kGroupBoxes - 1) / kGroupBoxes;
  const int64_t group_floats = int64_t{kGroupBoxes} * 2 * tree_.padded_dim;
  leaf_boxes_ = allocate_array<float>(tree_.num_groups * group_floats);
  std::fill_n(leaf_boxes_.get() + (tree_.num_groups - 1) * group_floats, group_floats, kInfinity);
  order_codes(list, count, kLeafCodes, kGroupBoxes, parallel,
              [&](int64_t first, int64_t end) { turn_leaf(first, end); });
  if (tree_.num_groups >= kLeastBranches) {
    tree_.num_branch_groups = (tree_.num_groups + kGroupBoxes - 1) / kGroupBoxes;
    branch_boxes_ = allocate_array<float>(tree_.num_branch_groups * group_floats);
    fill_branches();
  }
  tree_.panels = panels_.get();
  tree_.codes = codes_.get();
  tree_.leaf_boxes = leaf_boxes_.get();
  tree_.branch_boxes = branch_boxes_.get();
  find_middle();
  if (with_sieve && has_sieve(tree_.padded_dim)) sieve_ = make_sieve(count, parallel, &tree_);
  return true;
}

// Makes a panel of the codes first .. end - 1, which lie one after the other in its place.
void BoxCodebook::turn_leaf(int64_t first, int64_t end) {
  const int64_t leaf = first / kLeafCodes, count = end - first;
  const int padded_dim = tree_.padded_dim;
  float* const panel = panels_.get() + first * padded_dim;
  float* const boxes =
      leaf_boxes_.get() + leaf / kGroupBoxes * padded_dim * 2 * kGroupBoxes + leaf % kGroupBoxes;
  float elements[kLeafCodes * kMostBoxDim];
  std::copy_n(panel, count * padded_dim, elements);
  for (int d = 0; d < padded_dim; ++d) {
    float lower = elements[d], upper = elements[d];
    float* const out = panel + d * kLeafCodes;
    for (int64_t i = 0; i < count; ++i) {
      const float element = elements[i * padded_dim + d];
      lower = element < lower ? element : lower;
      upper = element > upper ? element : upper;
      out[i] = element;
    }
    std::fill(out + count, out + kLeafCodes, kInfinity);
    boxes[d * 2 * kGroupBoxes] = lower;
    boxes[(d * 2 + 1) * kGroupBoxes] = upper;
  }
  std::fill(codes_.get() + end, codes_.get() + first + kLeafCodes, -1);
}

void BoxCodebook::fill_branches() {
  const int64_t rows = int64_t{tree_.padded_dim} * 2;
  for (int64_t b = 0; b < tree_.num_branch_groups * kGroupBoxes; ++b) {
    float* out = branch_boxes_.get() + b / kGroupBoxes * rows * kGroupBoxes + b % kGroupBoxes;
    const int64_t leaves = std::clamp<int64_t>(tree_.num_leaves - b * kGroupBoxes, 0, kGroupBoxes);
    for (int64_t i = 0; i < rows; ++i) {
      const float* in = leaf_boxes_.get() + (b * rows + i) * kGroupBoxes;
      out[i * kGroupBoxes] = leaves == 0  ? kInfinity
                             : i % 2 == 0 ? *std::min_element(in, in + leaves)
                                          : *std::max_element(in, in + leaves);
    }
  }
}

void BoxCodebook::find_middle() {
  double radius2 = 0.0;
  for (int d = 0; d < tree_.dim; ++d) {
    float lower = kInfinity, upper = -kInfinity;
    for (int64_t leaf = 0; leaf < tree_.num_leaves; ++leaf) {
      const float* sides =
          leaf_boxes_.get() + (leaf / kGroupBoxes * tree_.padded_dim + d) * 2 * kGroupBoxes;
      lower = std::min(lower, sides[leaf % kGroupBoxes]);
      upper = std::max(upper, sides[kGroupBoxes + leaf % kGroupBoxes]);
    }
    const auto middle = static_cast<float>((static_cast<double>(lower) + upper) / 2);
    const double half =
        std::max(static_cast<double>(upper) - middle, middle - static_cast<double>(lower));
    tree_.middle[d] = middle;
    radius2 += half * half;
    tree_.half_width = std::max(tree_.half_width, half);
  }
  tree_.radius = std::sqrt(radius2) * (1.0 + 0x1p-20);
  if (tree_.radius < kLeastRadius) return;
  tree_.far_norm2 = kFarRadii * kFarRadii * tree_.radius * tree_.radius;
}

size_t BoxCodebook::bytes() const {
  const int64_t groups = tree_.num_groups + tree_.num_branch_groups;
  const int64_t sieve =
      tree_.sieve == nullptr ? 0 : tree_.num_leaves * sieve_leaf_size(tree_.padded_dim);
  return (room_ * (tree_.padded_dim + 1) + groups * kGroupBoxes * 2 * tree_.padded_dim) * 4 +
         sieve * 2;
}

int padded_box_dim(int64_t dim) {
  return *std::lower_bound(std::begin(kPaddedDims), std::end(kPaddedDims), static_cast<int>(dim));
}

}  // namespace vqgan_fast
