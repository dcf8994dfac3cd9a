#include "kernels/cpu/box_sieve.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/float_mode.h"

namespace vqgan_fast {
namespace {

// Closer together the scale might overflow.
constexpr double kLeastHalfWidth = 0x1p-60;

void image_column(const float* column, float middle, float scale, int64_t num_codes,
                  int32_t* images) {
  for (int i = 0; i < kLeafCodes; ++i) images[i] = round_image((column[i] - middle) * scale);
  std::fill(images + num_codes, images + kLeafCodes, 0);  // behind the last code they are infinite
}

// Of a leaf with num_codes codes.
void image_leaf(const BoxTree& tree, const float* panel, int64_t num_codes, int16_t* out) {
  const int padded_dim = tree.padded_dim;
  int32_t norms[kLeafCodes] = {};
  for (int d = 0; d < padded_dim; d += 2) {
    int32_t low[kLeafCodes], high[kLeafCodes], pairs[kLeafCodes];
    image_column(panel + d * kLeafCodes, tree.middle[d], tree.sieve_scale, num_codes, low);
    image_column(panel + (d + 1) * kLeafCodes, tree.middle[d + 1], tree.sieve_scale, num_codes,
                 high);
    for (int i = 0; i < kLeafCodes; ++i) {
      norms[i] += low[i] * low[i] + high[i] * high[i];
      pairs[i] = pair_of_images(low[i], high[i]);
    }
    std::memcpy(out + d * kLeafCodes, pairs, sizeof pairs);
  }
  std::fill(norms + num_codes, norms + kLeafCodes, INT32_MAX);
  std::memcpy(out + padded_dim * kLeafCodes, norms, sizeof norms);
}

}  // namespace

AlignedArray<int16_t> make_sieve(int64_t num_codes, const Parallel& parallel, BoxTree* tree) {
  if (tree->half_width < kLeastHalfWidth) return nullptr;
  tree->sieve_scale = static_cast<float>(kMostCodeImage / tree->half_width);
  const int64_t leaf_size = sieve_leaf_size(tree->padded_dim);
  auto sieve = allocate_array<int16_t>(tree->num_leaves * leaf_size);
  parallel.run(0, tree->num_leaves, 64, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    for (int64_t leaf = begin; leaf < end; ++leaf) {
      const int64_t here = std::min<int64_t>(num_codes - leaf * kLeafCodes, kLeafCodes);
      image_leaf(*tree, tree->panels + leaf * tree->padded_dim * kLeafCodes, here,
                 sieve.get() + leaf * leaf_size);
    }
  });
  tree->sieve = sieve.get();
  return sieve;
}

}  // namespace vqgan_fast
