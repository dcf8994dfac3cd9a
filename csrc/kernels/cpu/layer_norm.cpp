#include "kernels/cpu/layer_norm.h"

#include "kernels/cpu/float_mode.h"

namespace vqgan_fast {
namespace {

constexpr int64_t kThreadElements = 1 << 14;  // for fewer a thread costs more than it gains

}  // namespace

void layer_norm(const LayerNormArgs& args, SimdLevel level, const Parallel& parallel) {
  auto* rows = layer_norm_baseline;
#ifdef VQGAN_FAST_HAS_LAYER_NORM_AVX2
  if (level >= SimdLevel::kAvx2) rows = layer_norm_avx2;
#endif
  static_cast<void>(level);
  parallel.run(0, args.rows, 1 + kThreadElements / args.dim, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    rows(args, begin, end);
  });
}

}  // namespace vqgan_fast
