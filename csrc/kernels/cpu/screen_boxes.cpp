#include "kernels/cpu/screen_boxes.h"

#include <limits>

#include "kernels/cpu/aligned_memory.h"
#include "kernels/cpu/box_codebook.h"

namespace vqgan_fast {
namespace {

// A dense screen is faster from about this mean share of the leaves on that a row visits. The share
// differs from row to row: fewer than so many do not tell its mean.
constexpr double kOutdoneShare = 0.3;
constexpr int64_t kOutdoneRows = 96;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

ScreenBoxesFn kernel_of(SimdLevel level, int padded_dim) {
#ifdef VQGAN_FAST_HAS_SCREEN_BOXES_AVX512
  if (level >= SimdLevel::kAvx512) return screen_boxes_avx512(padded_dim);
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_BOXES_AVX2
  if (level >= SimdLevel::kAvx2) return screen_boxes_avx2(padded_dim);
#endif
  (void)level;
  return screen_boxes_baseline(padded_dim);
}

class BoxScreen final : public CodeScreen {
 public:
  bool pack(const CodeSource& codes, SimdLevel level, const Parallel& parallel) {
    if (!codebook_.pack(codes, level >= SimdLevel::kAvx2, parallel)) return false;
    kernel_ = kernel_of(level, tree().padded_dim);
    return true;
  }

  std::unique_ptr<Worker> worker() const override;
  size_t bytes() const override { return codebook_.bytes(); }
  int64_t num_panels() const override { return tree().num_leaves; }

  const BoxTree& tree() const { return codebook_.tree(); }
  ScreenBoxesFn kernel() const { return kernel_; }

 private:
  BoxCodebook codebook_;
  ScreenBoxesFn kernel_ = nullptr;
};

class BoxWorker final : public CodeScreen::Worker {
 public:
  explicit BoxWorker(const BoxScreen& screen) : screen_(screen) {
    const BoxTree& tree = screen.tree();
    const int64_t boxes = tree.num_groups * kGroupBoxes;
    const int64_t branches = tree.num_branch_groups * kGroupBoxes;
    const int64_t compared = branches > 0 ? branches : boxes;
    search_.tree = &tree;
    leaf_edges_ = allocate_array<float>(boxes);
    branch_edges_ = allocate_array<float>(branches);
    bounds_ = allocate_array<float>(kSideRows * compared);
    branch_list_ = allocate_array<int32_t>(branches + kGroupBoxes);
    branch_bounds_ = allocate_array<float>(branches + kGroupBoxes);
    near_leaves_ = allocate_array<int32_t>(kSideRows * boxes + kGroupBoxes);
    near_bounds_ = allocate_array<float>(kSideRows * boxes + kGroupBoxes);
    search_.leaf_edges = leaf_edges_.get();
    search_.branch_edges = branch_edges_.get();
    search_.bounds = bounds_.get();
    search_.branches = branch_list_.get();
    search_.branch_bounds = branch_bounds_.get();
    search_.near_leaves = near_leaves_.get();
    search_.near_bounds = near_bounds_.get();
  }

  void run(const double* z, int64_t num_rows, int64_t first_panel, int64_t last_panel,
           RowCandidates* out) override {
    if (first_panel >= last_panel) {
      for (int64_t r = 0; r < num_rows; ++r) out[r].open = false, out[r].count = 0;
      return;
    }
    if (first_panel != first_ || last_panel != last_) set_range(first_panel, last_panel);
    screen_.kernel()(&search_, z, num_rows, out);
    rows_screened_ += num_rows;
    leaves_offered_ += num_rows * (last_panel - first_panel);
  }

  bool outdone() const override {
    return rows_screened_ >= kOutdoneRows &&
           static_cast<double>(search_.leaves_visited) >
               kOutdoneShare * static_cast<double>(leaves_offered_);
  }

 private:
  void set_range(int64_t first, int64_t last) {
    const BoxTree& tree = screen_.tree();
    first_ = first;
    last_ = last;
    for (int64_t leaf = 0; leaf < tree.num_groups * kGroupBoxes; ++leaf) {
      leaf_edges_[leaf] = leaf >= first && leaf < last ? 0.0f : kInfinity;
    }
    for (int64_t b = 0; b < tree.num_branch_groups * kGroupBoxes; ++b) {
      const bool inside = (b + 1) * kGroupBoxes > first && b * kGroupBoxes < last;
      branch_edges_[b] = inside ? 0.0f : kInfinity;
    }
  }

  const BoxScreen& screen_;
  BoxSearch search_;
  AlignedArray<float> leaf_edges_, branch_edges_, bounds_, branch_bounds_, near_bounds_;
  AlignedArray<int32_t> branch_list_, near_leaves_;
  int64_t first_ = 0, last_ = 0;
  int64_t rows_screened_ = 0;
  int64_t leaves_offered_ = 0;
};

std::unique_ptr<CodeScreen::Worker> BoxScreen::worker() const {
  return std::make_unique<BoxWorker>(*this);
}

}  // namespace

std::shared_ptr<const CodeScreen> make_screen_boxes(const CodeSource& codes, SimdLevel level,
                                                    const Parallel& parallel) {
  auto screen = std::make_shared<BoxScreen>();
  if (!screen->pack(codes, level, parallel)) return nullptr;
  return screen;
}

}  // namespace vqgan_fast
