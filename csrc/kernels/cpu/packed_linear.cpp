#include "kernels/cpu/packed_linear.h"

#include "kernels/cpu/float_mode.h"

namespace vqgan_fast {
namespace {

PackedLinearTask task_of(SimdLevel level) {
#ifdef VQGAN_FAST_HAS_PACKED_LINEAR_AVX512
  if (level >= SimdLevel::kAvx512) return packed_linear_avx512;
#endif
#ifdef VQGAN_FAST_HAS_PACKED_LINEAR_AVX2
  if (level >= SimdLevel::kAvx2) return packed_linear_avx2;
#endif
  static_cast<void>(level);
  return packed_linear_baseline;
}

}  // namespace

void packed_linear(const PackedLinearArgs& args, SimdLevel level, const Parallel& parallel) {
  if (args.rows == 0) return;
  const PackedLinearTask task = task_of(level);
  const int64_t panels = (args.outputs + kPanel - 1) / kPanel;
  parallel.run(0, panels, 1, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    task(args, begin, end, 0, args.rows);
  });
}

}  // namespace vqgan_fast
