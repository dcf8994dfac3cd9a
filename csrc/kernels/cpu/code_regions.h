// Where codes crowd, as a sample of them tells.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/code_source.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

// A code belongs to the region with the nearest centre among those within whose reach it is, to the
// first of equal ones. The last one reaches everything, and has what belongs nowhere else.
struct CodeRegions {
  std::vector<double> centres;  // [region][dim], or one if they are shells around it
  std::vector<double> reaches;
  bool are_shells = false;

  int64_t centre_of(int64_t region) const { return are_shells ? 0 : region; }
  int64_t count() const { return static_cast<int64_t>(reaches.size()); }
};

// Clusters that are far apart beside their width; else shells around a dense place. None if no
// place is dense; of codes that are a shell themselves, with none within `hollow` of its middle
// (else 0), only if one is dense beside that. Costs as much as searching max_samples^2 / K rows.
CodeRegions find_code_regions(const CodeSource& source, int64_t max_samples, double hollow,
                              SimdLevel level);

}  // namespace vqgan_fast
