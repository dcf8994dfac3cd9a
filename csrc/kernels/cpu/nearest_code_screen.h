// What a screen is: a fast pass over the codebook that leaves, for every row, the few codes that
// can be its nearest. docs/numerics.md has the bound of each screen; nearest_code_plan.h chooses
// one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "kernels/cpu/code_source.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

// What a screen leaves of one row. Among the codes of the panels that were screened, the code that
// the definition chooses is one of `codes` or of `many`, in any order, unless `open`.
struct RowCandidates {
  static constexpr int kMost = 16;

  // A squared distance that the caller sets: codes beyond it may be left out, and where no code is
  // within it there may be none. A screen may lower it to one that the nearest of its codes keeps.
  double within2 = std::numeric_limits<double>::infinity();
  bool open = false;  // other codes may be nearest as well: more than fit, or no bound for this row
  int count = 0;
  int64_t codes[kMost];
  std::vector<int64_t> many;  // instead of `codes`, where a screen found more than kMost
};

// A codebook packed for one screen at one SIMD level. Immutable, so that threads share it and calls
// keep it.
class CodeScreen {
 public:
  // The memory that one thread needs.
  class Worker {
   public:
    virtual ~Worker() = default;
    // Screens rows z[r * dim + d], all finite, num_rows <= block_rows(), against panels first_panel
    // .. last_panel - 1.
    virtual void run(const double* z, int64_t num_rows, int64_t first_panel, int64_t last_panel,
                     RowCandidates* out) = 0;
    // Whether what it saw so far would have been screened faster by another screen; false as long
    // as that is too little to tell.
    virtual bool outdone() const { return false; }
  };
  static constexpr int64_t kMostRows = 192;

  virtual ~CodeScreen() = default;
  // As many rows at a time as make the most of a pass over the codes: at most kMostRows.
  virtual int64_t block_rows() const { return 96; }
  virtual std::unique_ptr<Worker> worker() const = 0;
  virtual size_t bytes() const = 0;
  // The codebook is cut into panels of equal size, each code in one of them; a caller may give
  // panels to different threads.
  virtual int64_t num_panels() const = 0;
};

// Each returns null where its bound does not hold for the codebook: no finite code, all codes
// alike, or sizes and magnitudes out of its range.
std::shared_ptr<const CodeScreen> make_screen_fp32(const CodeSource& codes, SimdLevel level,
                                                   const Parallel& parallel);
std::shared_ptr<const CodeScreen> make_screen_int16(const CodeSource& codes, SimdLevel level,
                                                    const Parallel& parallel);
std::shared_ptr<const CodeScreen> make_screen_int8(const CodeSource& codes, SimdLevel level,
                                                   const Parallel& parallel);
std::shared_ptr<const CodeScreen> make_screen_boxes(const CodeSource& codes, SimdLevel level,
                                                    const Parallel& parallel);
// Null where there are no clusters as well.
std::shared_ptr<const CodeScreen> make_screen_clusters(const CodeSource& codes, SimdLevel level,
                                                       const Parallel& parallel);

}  // namespace vqgan_fast
