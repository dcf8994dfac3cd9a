// What one thread of the int16 screen does: it quantises the rows of a block and passes them over
// the codebook, once for the few codes that can be nearest, and where these are many once more.
// docs/numerics.md, "The int16 screen", names the symbols.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/aligned_memory.h"
#include "kernels/cpu/nearest_code_screen.h"
#include "kernels/cpu/quantised_codebook.h"
#include "kernels/cpu/quantised_kernels.h"
#include "kernels/cpu/quantised_rows.h"

namespace vqgan_fast {

class Int16Worker final : public CodeScreen::Worker {
 public:
  // Blocks have most_rows rows at most.
  Int16Worker(const QuantisedCodebook& codebook, const QuantisedKernels& kernels,
              int64_t most_rows);

  void run(const double* z, int64_t num_rows, int64_t first_panel, int64_t last_panel,
           RowCandidates* out) override;

 private:
  // What is known of one row.
  struct Row {
    int64_t number;  // in the block
    QuantisedRows::Scale scale;
    int64_t margin;
    int32_t smallest;  // score so far
    int32_t limit;     // the smallest one plus margin, or less
    int32_t loser;     // smallest score whose code is not among the candidates
    int count;
    int32_t scores[RowCandidates::kMost];
    int64_t codes[RowCandidates::kMost];

    void drop_above_limit();
  };

  // Quantises a row as the r-th one; false if there is no bound for it.
  bool prepare(const double* z, double within2, int64_t r);
  // At least what a score of a row can lie below 0, and the least score.
  int32_t bias_of(int shift) const;

  // Brings what the panels hold into the rows: collect, what the lanes of one row hold after a
  // segment that began with first_panel; finish, what is left of it.
  void screen(int64_t first_panel, int64_t num_panels);
  void collect(int64_t r, int64_t first_panel);
  void finish(Row* row, RowCandidates* out) const;

  // Of all rows, or of those that are open, finds every code within the limit.
  void mark(int64_t first_panel, int64_t num_panels, bool only_open, RowCandidates* out);
  // Screens the panels, and marks where that is worth it.
  void screen_and_mark(int64_t first_panel, int64_t num_panels, RowCandidates* out);
  void take_marks(const uint16_t* marks, int64_t first_code, std::vector<int64_t>* codes) const;

  const QuantisedCodebook& codebook_;
  const QuantisedKernels& kernels_;
  QuantisedRows quantised_;
  int64_t num_rows_ = 0;  // that have a bound
  AlignedArray<int32_t> state_;
  int32_t biases_[CodeScreen::kMostRows];
  std::vector<Row> rows_;
  int64_t blocks_to_mark_ = 0;  // without screening all codes first
  int64_t blocks_not_to_mark_ = 0;
};

}  // namespace vqgan_fast
