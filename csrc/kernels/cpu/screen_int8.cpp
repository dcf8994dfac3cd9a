// The int8 screen: the int16 screen with elements of one byte, of which a CPU with dot products of
// bytes multiplies twice as many. They tell codes apart less well; the few of each row that they do
// not are measured. docs/numerics.md, "The int8 screen", derives what they are.
#include <cstdint>
#include <limits>

#include "kernels/cpu/int8_worker.h"
#include "kernels/cpu/nearest_code_screen.h"
#include "kernels/cpu/quantised_kernels.h"
#include "kernels/cpu/quantised_screen.h"

namespace vqgan_fast {
namespace {

const QuantisedKernels& kernels_for(SimdLevel level) {
  (void)level;
#ifdef VQGAN_FAST_HAS_SCREEN_INT8_AVX512VNNI
  if (level >= SimdLevel::kAvx512Vnni) return kScreenInt8Avx512Vnni;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_INT8_AVXVNNI
  if (level == SimdLevel::kAvxVnni) return kScreenInt8AvxVnni;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_INT8_NEONDOT
  if (level == SimdLevel::kNeonDot) return kScreenInt8NeonDot;
#endif
  return kScreenInt8Baseline;
}

}  // namespace

std::shared_ptr<const CodeScreen> make_screen_int8(const CodeSource& codes, SimdLevel level,
                                                   const Parallel& parallel) {
  if (codes.num_codes > std::numeric_limits<int32_t>::max()) return nullptr;  // of MarkedCode
  return make_quantised_screen<Int8Worker>(codes, kernels_for(level), parallel);
}

}  // namespace vqgan_fast
