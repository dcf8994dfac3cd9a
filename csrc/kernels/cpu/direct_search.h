// The exact nearest code without a packed codebook: for few rows, and for rows that a screen left
// open.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/nearest.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

// Measures (z - e)^2 directly in fp32, whose error is relative to the distance itself, keeps the
// codes within it, and decides among them in fp64; scans in fp64 where fp32 cannot hold the inputs
// or leaves too many codes. Holds one thread's memory.
class DirectSearch {
 public:
  DirectSearch(const Rows& codebook, int64_t dim, SimdLevel level);
  ~DirectSearch();

  // found[r] becomes the definition's choice among what it was (index < 0: nothing) and the codes
  // first_code .. last_code - 1. z[r] points to dim doubles, all finite.
  void run(const double* const* z, int64_t num_rows, int64_t first_code, int64_t last_code,
           Nearest* const* found);

  // The same for one row and the codes of a list, which hold its nearest among num_codes. False,
  // and nothing is done, where to search them all is faster.
  bool run_listed(const double* z, const std::vector<int64_t>& codes, int64_t num_codes,
                  Nearest* found);

  // Rows so far that were scanned in fp64.
  int64_t rows_scanned() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vqgan_fast
