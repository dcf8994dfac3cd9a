// The search of nearest_code for a block of rows within a range of codes: what one task does.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/cpu/nearest_code.h"
#include "kernels/cpu/nearest_code_kernels.h"
#include "kernels/cpu/packed_codebook.h"

namespace vqgan_fast {

// Rows that pass over the codebook together: enough for each panel to be read from a near cache
// many times, few enough for their own data to stay in one. A multiple of every level's tile_rows.
constexpr int64_t kBlockRows = 96;

// The nearest code found for a row so far; index < 0: none.
struct Nearest {
  double distance = std::numeric_limits<double>::quiet_NaN();
  int64_t index = -1;

  // Codes must come in ascending order: the first of equals stays. A NaN distance is never taken.
  void offer(double candidate, int64_t code) {
    if (candidate < distance || (index < 0 && !std::isnan(candidate))) {
      distance = candidate;
      index = code;
    }
  }
};

// Holds the memory that a task needs; one for each thread.
class BlockSearch {
 public:
  // need_distances: measure a row's distance even where only one code can be the nearest.
  BlockSearch(const NearestCodeArgs& args, const PackedCodebook& packed,
              const NearestCodeKernels& kernels, bool need_distances);

  // Writes found[0 .. num_rows - 1], num_rows <= kBlockRows. first_code is a multiple of
  // kPanelCodes.
  void run(int64_t first_row, int64_t num_rows, int64_t first_code, int64_t last_code,
           Nearest* found);

 private:
  enum class RowKind { kScreened, kDirect, kNotFinite };

  void prepare_row(int64_t r);
  void shut(int64_t r);
  void screen(int64_t num_rows, int64_t first_code, int64_t last_code);
  void measure_candidates(int64_t num_rows, Nearest* found);
  void measure_pairs(Nearest* found);
  void scan_direct(int64_t num_rows, int64_t first_code, int64_t last_code, Nearest* found);

  const NearestCodeArgs& args_;
  const PackedCodebook& packed_;
  const NearestCodeKernels& kernels_;
  const bool need_distances_;
  const int64_t dim_;
  std::vector<double> z_;           // the rows as given, [row][dim]
  std::vector<double> codes_;       // codes under measurement, [code][dim]
  std::vector<double> code_lanes_;  // the same for the scan, [dim][code]
  std::vector<float> scaled_;       // the rows centred and scaled, tile by tile: [dim][tile_rows]
  std::vector<RowScreen> screens_;
  std::vector<RowKind> kinds_;
  std::vector<int64_t> direct_rows_;
  int num_pairs_ = 0;
  int64_t pair_row_[kPairs];
  int64_t pair_code_[kPairs];
};

}  // namespace vqgan_fast
