// What one thread of the int8 screen does: it quantises the rows of a block, passes them over the
// codebook, and keeps every code that can be nearest. docs/numerics.md, "The int8 screen".
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/aligned_memory.h"
#include "kernels/cpu/nearest_code_screen.h"
#include "kernels/cpu/quantised_codebook.h"
#include "kernels/cpu/quantised_kernels.h"
#include "kernels/cpu/quantised_rows.h"

namespace vqgan_fast {

class Int8Worker final : public CodeScreen::Worker {
 public:
  // Blocks have most_rows rows at most.
  Int8Worker(const QuantisedCodebook& codebook, const QuantisedKernels& kernels, int64_t most_rows);

  void run(const double* z, int64_t num_rows, int64_t first_panel, int64_t last_panel,
           RowCandidates* out) override;
  bool outdone() const override;

 private:
  // What is known of one row.
  struct Row {
    int64_t number;  // in the block
    int64_t margin;
    int64_t count;  // of its codes in marked_
  };
  // Marked codes of one row and segment.
  struct Run {
    int64_t row;
    int64_t count;
  };

  // Quantises the rows that have a bound; the others are open.
  void prepare(const double* z, int64_t num_rows, RowCandidates* out);
  // Marks the codes within the limits in at most most_panels_to_mark() panels; `anew`: minima of
  // earlier panels are forgotten.
  void mark(int64_t first_panel, int64_t num_panels, const int32_t* limits, bool anew);
  // Lowers a row's limit to what its minima say, and takes the codes that were marked from
  // first_code on.
  void collect(int64_t r, int64_t first_code);
  // Of rows that are wanted leaves the marked codes within the limits of by now, of others none.
  void drop_above_limits();

  const QuantisedCodebook& codebook_;
  const QuantisedKernels& kernels_;
  QuantisedRows quantised_;
  AlignedArray<int32_t> minima_;    // of the rows, for the segment
  std::vector<MarkedCode> marked_;  // of all rows, the first num_marked_
  int64_t num_marked_ = 0;
  std::vector<Run> runs_;
  std::vector<QuantisedRows::Scale> scales_;
  std::vector<Row> rows_;
  int64_t num_rows_ = 0;  // that have a bound
  int32_t limits_[CodeScreen::kMostRows];
  bool wanted_[CodeScreen::kMostRows];  // a row that has too many codes is not
  // Of the rows of the last blocks that have a bound.
  int64_t rows_seen_ = 0, rows_open_ = 0, codes_listed_ = 0;
};

}  // namespace vqgan_fast
