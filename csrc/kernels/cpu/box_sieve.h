// int16 images of codes and rows, by which the leaf-box screen sees that a leaf has no near code
// without reading its codes. docs/numerics.md, "The sieve".
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/aligned_memory.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/screen_boxes.h"

namespace vqgan_fast {

// Elements of the images of codes and of rows are at most these. The norm of a code and eight
// products with twice a row's elements fit in int32, and those in int16.
constexpr int kMostCodeImage = 4094;
constexpr int kMostRowImage = 16380;

// Codes of fewer columns are measured as soon as sifted; those of more are seldom put in boxes.
constexpr bool has_sieve(int padded_dim) { return padded_dim == 8; }

// int16 that the images of a leaf and their squared norms take.
constexpr int64_t sieve_leaf_size(int padded_dim) { return (padded_dim + 2) * kLeafCodes; }

// round(u), |u| < 2^22. Each SIMD level has its own copy.
static inline int32_t round_image(float u) {
  // The last bit of a sum with this is worth one.
  constexpr float kOnes = 0x1.8p23f;
  const float sum = u + kOnes;
  int32_t bits, bits_of_ones;
  std::memcpy(&bits, &sum, sizeof bits);
  std::memcpy(&bits_of_ones, &kOnes, sizeof bits);
  return bits - bits_of_ones;
}

// Two int16 as a multiplication that adds the products of pairs wants them.
static inline int32_t pair_of_images(int32_t low, int32_t high) {
  return static_cast<int32_t>((static_cast<uint32_t>(low) & 0xffff) | static_cast<uint32_t>(high)
                                                                          << 16);
}

// The images of the codes in the tree's panels, the first num_codes; enters them in the tree. None
// (null) where the codes are too close together.
AlignedArray<int16_t> make_sieve(int64_t num_codes, const Parallel& parallel, BoxTree* tree);

}  // namespace vqgan_fast
