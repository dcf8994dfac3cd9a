// The codebook as the leaf-box screen of nearest_code wants it: in k-d order, cut into leaves, with
// the boxes around them. docs/numerics.md, "The screen by boxes", names the symbols.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/aligned_memory.h"
#include "kernels/cpu/code_source.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/screen_boxes.h"
#include "kernels/cpu/screen_boxes_order.h"

namespace vqgan_fast {

// Owns what its tree points to.
class BoxCodebook {
 public:
  // Whether the screen's bound holds for the codebook.
  bool pack(const CodeSource& source, bool with_sieve, const Parallel& parallel);

  const BoxTree& tree() const { return tree_; }
  size_t bytes() const;

 private:
  void turn_leaf(int64_t first, int64_t end);
  void fill_branches();
  void find_middle();

  BoxTree tree_;
  AlignedArray<float> panels_;
  AlignedArray<int32_t> codes_;
  int64_t room_ = 0;  // codes that these two have memory for
  AlignedArray<float> leaf_boxes_, branch_boxes_;
  AlignedArray<int16_t> sieve_;
};

}  // namespace vqgan_fast
