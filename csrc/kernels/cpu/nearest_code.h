// For every row of z the index of the nearest row of the codebook, and the squared distance to it.
//
// index[n] = argmin_k d(n, k), ties to the lowest k, where d is summed in fp64 in one fixed order:
//     acc = 0;  for i in 0 .. dim-1: acc = fma(z[n][i] - e[k][i], z[n][i] - e[k][i], acc)
// The result is the same for every SIMD level, thread count and memory layout. docs/numerics.md has
// the special values (a row with a non-finite element: index 0 and NaN; a NaN code never wins) and
// the proofs of the screens.
#pragma once

#include <cstdint>
#include <functional>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

// Takes rows first_row .. first_row + count - 1, z[r * dim + d], while they lie near; their indices
// and distances are written. Calls come from many threads, in any order; every row comes once.
using TakeRows = std::function<void(int64_t first_row, int64_t count, const double* z)>;

struct NearestCodeArgs {
  Rows z;         // num_rows x dim
  Rows codebook;  // num_codes x dim
  int64_t num_rows = 0;
  int64_t num_codes = 0;                   // at least 1
  int64_t dim = 0;                         // at least 1
  int64_t* indices = nullptr;              // num_rows, contiguous
  void* distances = nullptr;               // num_rows, contiguous; null: not wanted
  DType distance_dtype = DType::kFloat32;  // kFloat32 or kFloat64
  TakeRows take_rows;                      // may be empty
};

// Throws std::runtime_error where VQGAN_FAST_ISA or VQGAN_FAST_SCREEN asks for what cannot be had.
void nearest_code(const NearestCodeArgs& args, const Parallel& parallel);

}  // namespace vqgan_fast
