#include "kernels/cpu/box_sieve.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/float_mode.h"

namespace vqgan_fast {
namespace {

// Closer together the scale might overflow.
constexpr float kLeastHalfWidth = 0x1p-60f;

// Half the width of the box around all codes in the dimension where it is widest.
float widest_half(const BoxTree& tree) {
  float widest = 0.0f;
  for (int64_t leaf = 0; leaf < tree.num_leaves; ++leaf) {
    const float* boxes = tree.leaf_boxes +
                         leaf / kGroupBoxes * tree.padded_dim * 2 * kGroupBoxes +
                         leaf % kGroupBoxes;
    for (int d = 0; d < tree.dim; ++d) {
      const float* sides = boxes + d * 2 * kGroupBoxes;
      widest = std::max({widest, tree.middle[d] - sides[0], sides[kGroupBoxes] - tree.middle[d]});
    }
  }
  return widest;
}

void sift_leaf(const BoxTree& tree, int64_t leaf, int64_t num_codes, int16_t* out) {
  const float* const panel = tree.panels + leaf * tree.padded_dim * kLeafCodes;
  int32_t norms[kLeafCodes] = {};
  for (int d = 0; d < tree.padded_dim; ++d) {
    // Pairs of columns lie together, as a multiplication that adds pairs wants them.
    int16_t* const pairs = out + d / 2 * 2 * kLeafCodes + d % 2;
    for (int i = 0; i < kLeafCodes; ++i) {
      const float element = i < num_codes ? panel[d * kLeafCodes + i] : tree.middle[d];
      const int32_t image = round_image((element - tree.middle[d]) * tree.sieve_scale);
      norms[i] += image * image;
      pairs[i * 2] = static_cast<int16_t>(image);
    }
  }
  for (int64_t i = num_codes; i < kLeafCodes; ++i) norms[i] = INT32_MAX;
  std::memcpy(out + tree.padded_dim * kLeafCodes, norms, sizeof norms);
}

}  // namespace

AlignedArray<int16_t> make_sieve(int64_t num_codes, const Parallel& parallel, BoxTree* tree) {
  const float half_width = widest_half(*tree);
  if (!(half_width >= kLeastHalfWidth)) return nullptr;
  tree->sieve_scale = kMostCodeImage / half_width;
  const int64_t leaf_size = sieve_leaf_size(tree->padded_dim);
  auto sieve = allocate_array<int16_t>(tree->num_leaves * leaf_size);
  parallel.run(0, tree->num_leaves, 64, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    for (int64_t leaf = begin; leaf < end; ++leaf) {
      const int64_t here = std::min<int64_t>(num_codes - leaf * kLeafCodes, kLeafCodes);
      sift_leaf(*tree, leaf, here, sieve.get() + leaf * leaf_size);
    }
  });
  tree->sieve = sieve.get();
  return sieve;
}

}  // namespace vqgan_fast
