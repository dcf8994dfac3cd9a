// Runs the AVX-512 kernels in emulation, against the definitions and the baseline. Exits with 0 if
// nothing differs.
#include <cstdio>

#include "checks.h"

int main() {
  const int failures = check_intrinsics() + check_packed_linear() + check_soft_assign() +
                       check_codebook_stats() + check_search();
  if (failures > 0) std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
