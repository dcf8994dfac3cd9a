// The int16 screen: rows and codes are scaled to int16, so that a CPU multiplies two or four times
// as many of them in an instruction as it does fp32, and products add up without any rounding. All
// error is that of quantising, which is measured. docs/numerics.md, "The int16 screen", derives it.
#include "kernels/cpu/int16_worker.h"
#include "kernels/cpu/nearest_code_screen.h"
#include "kernels/cpu/quantised_kernels.h"
#include "kernels/cpu/quantised_screen.h"

namespace vqgan_fast {
namespace {

// A tile takes as long for few elements as for 64.
[[maybe_unused]] constexpr int64_t kLeastTileDim = 40;

const QuantisedKernels& kernels_for(SimdLevel level, int64_t dim) {
  (void)level, (void)dim;
#ifdef VQGAN_FAST_HAS_SCREEN_INT16_AMX
  if (level >= SimdLevel::kAmx) {
    return dim >= kLeastTileDim ? kScreenInt16AmxTiles : kScreenInt16Amx;
  }
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_INT16_AVX512VNNI
  if (level >= SimdLevel::kAvx512Vnni) return kScreenInt16Avx512Vnni;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_INT16_AVX512
  if (level >= SimdLevel::kAvx512) return kScreenInt16Avx512;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_INT16_AVXVNNI
  if (level == SimdLevel::kAvxVnni) return kScreenInt16AvxVnni;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_INT16_AVX2
  if (level >= SimdLevel::kAvx2) return kScreenInt16Avx2;
#endif
  return kScreenInt16Baseline;
}

}  // namespace

std::shared_ptr<const CodeScreen> make_screen_int16(const CodeSource& codes, SimdLevel level,
                                                    const Parallel& parallel) {
  return make_quantised_screen<Int16Worker>(codes, kernels_for(level, codes.dim), parallel);
}

}  // namespace vqgan_fast
