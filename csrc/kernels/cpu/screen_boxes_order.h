// Puts codes in k-d order: neighbours in the list are neighbours in space.
#pragma once

#include <cstdint>
#include <functional>

#include "kernels/cpu/parallel.h"

namespace vqgan_fast {

// Codes on their way to their leaves.
struct CodeList {
  float* elements;  // elements[i * stride + d], all finite
  int32_t* codes;   // index in the codebook
  int stride;       // a padded_box_dim
};

// Reorders the num_codes codes in `list`, in place, so that every leaf of leaf_codes successive
// ones, counted from the first, lies in a small box, and so does every group of group_leaves
// leaves. Calls leaf(first, end) for each leaf that is done, from any thread.
void order_codes(CodeList list, int64_t num_codes, int64_t leaf_codes, int64_t group_leaves,
                 const Parallel& parallel,
                 const std::function<void(int64_t first, int64_t end)>& leaf);

}  // namespace vqgan_fast
