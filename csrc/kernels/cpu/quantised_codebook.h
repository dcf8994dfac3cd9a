// The codebook as the int16 and int8 screens of nearest_code want it: centred, scaled, rounded to
// integers, and turned so that codes lie in lanes. docs/numerics.md, "The int16 screen", names the
// symbols.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/aligned_memory.h"
#include "kernels/cpu/code_source.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/quantised_kernels.h"

namespace vqgan_fast {

// Stands for the squared norm of a code that is not finite, and behind the last code; no true one
// is as large.
constexpr int32_t kNoCodeNorm = 1 << 30;

struct QuantisedCodebook {
  int64_t num_codes;
  int64_t dim;
  int64_t code_elements;  // int16s that a code takes, with the zeros behind it
  int64_t panel_codes;
  int64_t num_panels;
  AlignedArray<int16_t> codes;  // panel by panel, see QuantisedTile
  AlignedArray<int32_t> norms;  // H: squared norms of the scaled codes, in units
  std::vector<double> centre;   // c: any vector will do, the mean of some codes makes norms small
  double scale = 0.0;           // B: codes are quantised after (e - c) * scale
  double unit = 1.0;            // U: what a score counts
  double most_quantised = 0.0;  // M: norm of a quantised vector, so that scores fit
  double most_norm = 0.0;       // A: of a scaled vector, so that a quantised one has at most M
  double most_element = 0.0;    // of a scaled vector, so that it fits when quantised
  double code_norm = 0.0;       // the largest norm of a scaled code
  double max_residual = 0.0;    // largest norm of what quantising changed in a code
  double max_low = 0.0;         // L: largest norm of the low bytes of a code, if it has any
};

// Null if there is no finite code, or if all are alike, or for fp64 numbers so large or small that
// the definition itself may overflow or underflow.
std::unique_ptr<QuantisedCodebook> pack_quantised_codebook(const CodeSource& codes,
                                                           const QuantisedKernels& kernels,
                                                           const Parallel& parallel);

}  // namespace vqgan_fast
