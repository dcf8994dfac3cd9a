// The rows of a block, quantised as a screen's codebook is, and their passes over its panels: what
// the int16 and the int8 screen share. docs/numerics.md, "The int16 screen", names the symbols.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/cpu/aligned_memory.h"
#include "kernels/cpu/nearest_code_screen.h"
#include "kernels/cpu/quantised_codebook.h"
#include "kernels/cpu/quantised_kernels.h"

namespace vqgan_fast {

class QuantisedRows {
 public:
  // No block has more than most_rows. Scores differ from what products say by at most score_slack.
  QuantisedRows(const QuantisedCodebook& codebook, const QuantisedKernels& kernels,
                int64_t most_rows, int32_t score_slack);

  // How a row is scaled: by 2^(1 - shift) B.
  struct Scale {
    double norm;  // of the row, times B
    int shift;    // less than 0 if the row is too long for any
  };
  Scale scale_of(const double* z) const;
  // Quantises a row that has a scale as the r-th one. Returns its margin, 2 R + E: the definition's
  // choice has a score of at most that above the smallest one. Less than 0 if there is no bound.
  int64_t quantise(const double* z, const Scale& scale, int64_t r);

  // At least the score of any code whose squared distance from the row is at most within2; at least
  // the squared distance of a code with that score. The margin is what quantise returned; scores
  // are meant without a bias.
  double most_score(const Scale& scale, int64_t margin, double within2) const;
  double most_distance2(const Scale& scale, int64_t margin, double score) const;

  // Calls body(tile, r) for the rows from r on of the first num_rows, and some panels, all rows
  // before the next panels.
  using TileBody = std::function<void(QuantisedTile*, int64_t r)>;
  void for_each_tile(int64_t num_rows, int64_t first_panel, int64_t num_panels,
                     const TileBody& body) const;

  // So many panels can be marked at a time.
  int64_t most_panels_to_mark() const;
  // Marks the codes of these panels whose scores are within limits[r], for the rows that are
  // wanted. set_up makes of a tile what kernels.mark needs besides.
  void mark(int64_t num_rows, int64_t first_panel, int64_t num_panels, const int32_t* limits,
            const bool* wanted, const TileBody& set_up);
  // kMarkedVectors words, one for each vector of codes; 0 for those that were not marked.
  const uint16_t* marks_of(int64_t r) const { return marks_.data() + r * kMarkedVectors; }
  // What a list of all marked codes leaves of its row: open if one of them is no code.
  void take_list(RowCandidates* row) const;

 private:
  // By how much a squared distance that many units long errs in fp64.
  double rounding(double units) const { return (codebook_.dim + 8) * 0x1p-50 * units; }

  const QuantisedCodebook& codebook_;
  const QuantisedKernels& kernels_;
  const bool in_bytes_;  // bytes, not pairs
  const int64_t row_stride_;
  const int32_t score_slack_;
  AlignedArray<int16_t> quantised_;
  std::vector<int16_t> row_;  // one of them before its bytes are placed
  int32_t shifts_[CodeScreen::kMostRows];
  std::vector<uint16_t> marks_;  // row by row
};

}  // namespace vqgan_fast
