// Which way a search goes: through a screen of the packed codebook, or directly.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/content_hash.h"
#include "kernels/cpu/nearest_code.h"
#include "kernels/cpu/nearest_code_cost.h"
#include "kernels/cpu/nearest_code_screen.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/screen_cache.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

class SearchPlan {
 public:
  // Both arguments must outlive the plan.
  SearchPlan(const NearestCodeArgs& args, const Parallel& parallel);

  SimdLevel level() const { return level_; }

  // The screen that open rows should pass next, or null: those that are left are searched directly.
  // The first one is that of the way which nearest_code_cost.h holds for the fastest, or which the
  // environment variable VQGAN_FAST_SCREEN names (direct, fp32, int16, int8, boxes or clusters;
  // auto is the default). Where products left many rows, clusters follow, if there are any and
  // looking for them pays; and after boxes or int8, another one: data that fills no boxes may still
  // be screened by its products, or by finer ones. Packs the codebook, unless an earlier call left
  // it packed.
  std::shared_ptr<const CodeScreen> next_screen(int64_t num_open);

  // Whether no screen may follow the one that was returned last.
  bool is_last_screen() const;

 private:
  bool is_hash_worth() const;
  bool clusters_pay(int64_t num_rows) const;
  SearchWay fastest(int64_t num_rows) const;
  std::shared_ptr<const CodeScreen> pack(ScreenKind kind);

  const NearestCodeArgs& args_;
  const Parallel& parallel_;
  SimdLevel level_;
  std::vector<SearchWay> ways_;  // that may be gone yet
  bool clusters_;                // may be looked for yet
  bool products_ = false;        // left the open rows; boxes keep clusters apart themselves
  bool first_ = true;
  bool known_ = false;  // the codebook was met before; then codebook_ is set
  CodebookKey codebook_;
  std::unique_ptr<const ContentTree> tree_;  // likewise
};

}  // namespace vqgan_fast
