// Takes rows past many codes, whose direct distances (z - e)^2 the kernels measure: what lies
// between the codebook as it is in memory and the loops of a SIMD level.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/code_distances_kernels.h"
#include "kernels/cpu/rows.h"

namespace vqgan_fast {

// The limit of a row that need not go on: no distance is within it.
template <class Scalar>
constexpr Scalar kShut = -1;

// Scalar is float or double: what rows and codes are measured in. Holds one thread's memory.
template <class Scalar>
class DirectPass {
 public:
  // All arguments must outlive it.
  DirectPass(const Rows& codebook, int64_t dim, const CodeDistanceKernels& kernels);

  // Rows z[i], each dim doubles that Scalar holds, past the codes first_code .. last_code - 1, in
  // ascending order for each row. `keep` is told of distances not above limits[i], which it may
  // lower meanwhile, to kShut for example.
  void run(const double* const* z, int64_t num_rows, int64_t first_code, int64_t last_code,
           const Scalar* limits, KeepDistances<Scalar> keep, void* search);

 private:
  bool is_in_place(int64_t num_rows, int64_t last_code) const;
  void run_in_place(const double* const* z, int64_t num_rows, int64_t first_code, int64_t last_code,
                    const Scalar* limits, KeepDistances<Scalar> keep, void* search);
  void lay_rows(const double* const* z, int64_t num_rows, int64_t tile_rows);
  void pack(int64_t code, int64_t count, Scalar* panel);

  const Rows& codebook_;
  const int64_t dim_;
  const CodeDistanceKernels& kernels_;
  const CodeKernels* const in_place_;
  std::vector<Scalar> rows_;    // tile by tile: [d][row]; in place: [row][d]
  std::vector<Scalar> panels_;  // panel by panel: [d][code]
  std::vector<double> codes_;   // where they cannot be read in place
};

}  // namespace vqgan_fast
