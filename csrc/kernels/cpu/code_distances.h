// Squared distances of single pairs of a row and a code, by the definition in fp64.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/cpu/nearest.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

// Measures pairs of a row and a code by the definition, several side by side: each sum waits for
// its own last step, so that one alone would leave the machine idle. Holds one thread's memory.
class PairDistances {
 public:
  PairDistances(const Rows& codebook, int64_t dim, SimdLevel level);
  ~PairDistances();

  // Offers code and its distance to *nearest, now or at the next flush; z (dim doubles) and
  // *nearest must live until then.
  void add(const double* z, int64_t code, Nearest* nearest);
  void flush();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vqgan_fast
