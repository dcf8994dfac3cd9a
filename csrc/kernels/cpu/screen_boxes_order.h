// Puts codes in k-d order: neighbours in the list are neighbours in space.
#pragma once

#include <cstdint>
#include <functional>

#include "kernels/cpu/parallel.h"

namespace vqgan_fast {

// A code on its way to its leaf: `stride` floats, a multiple of 4, zeros behind the last element.
struct CodeList {
  float* elements;  // elements[i * stride + d]
  int32_t* codes;   // index in the codebook
};

// Reorders the num_codes codes in `list` so that every leaf of leaf_codes successive ones, counted
// from the first, lies in a small box, and so does every group of group_leaves leaves. `other` is
// memory of the same size; calls leaf(first, end, elements, codes) for pieces of whole leaves that
// are done, from any thread.
void order_codes(CodeList list, CodeList other, int64_t num_codes, int stride, int64_t leaf_codes,
                 int64_t group_leaves, const Parallel& parallel,
                 const std::function<void(int64_t first, int64_t end, CodeList done)>& leaf);

}  // namespace vqgan_fast
