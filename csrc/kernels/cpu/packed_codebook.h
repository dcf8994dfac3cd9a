// The codebook as the fp32 screen of nearest_code wants it: centred, scaled, rounded to fp32, and
// turned so that 16 codes lie in lanes.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"

namespace vqgan_fast {

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};

struct PackedCodebook {
  // panels[(p * dim + d) * 16 + lane] = fp32 of scale * (e - centre) of code k = 16 p + lane.
  // Aligned to cache lines. A code that is not finite, and the lanes behind the last code, hold
  // zeros.
  std::unique_ptr<float[], FreeDeleter> panels;
  // 0.5 ||.||^2 of that vector; +inf for a code that is not finite and behind the last code.
  std::unique_ptr<float[], FreeDeleter> half_norms;
  std::vector<double> centre;  // dim; any vector will do, the mean of some codes makes norms small
  double scale = 1.0;          // a power of two
  double max_norm = 0.0;       // largest norm of a finite code, centred and scaled
  // Whether the error bound of the screen holds for this codebook: it has a finite code, its codes
  // are not all the same, and neither fp32 nor the fp64 sums come near their limits.
  bool usable = false;
};

PackedCodebook pack_codebook(const Rows& codebook, int64_t num_codes, int64_t dim,
                             const Parallel& parallel);

}  // namespace vqgan_fast
