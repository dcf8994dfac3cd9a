// Codes that lie close together, far from the others.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/cpu/code_source.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

struct CodeCluster {
  std::vector<int64_t> codes;  // as the source numbers them, ascending
  std::vector<double> centre;
  // Distances from the centre, as PointDistances measures them: no code is nearer or farther.
  double nearest = std::numeric_limits<double>::infinity();
  double farthest = 0.0;
  bool is_shell = false;  // its centre is in the middle of several
  bool is_whole = false;  // it was not to be split
};

// Clusters that hold a good part of the codes, shells of codes around a dense place, and what is
// left: every code is in one of them, but for those with a NaN. None where there are no such. Costs
// as much as searching some hundred rows directly, or more.
std::vector<CodeCluster> find_code_clusters(const CodeSource& source, SimdLevel level,
                                            const Parallel& parallel);

}  // namespace vqgan_fast
