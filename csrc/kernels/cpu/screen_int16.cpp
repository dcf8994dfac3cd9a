// The int16 screen: rows and codes are scaled to int16, so that a CPU multiplies two or four times
// as many of them in an instruction as it does fp32, and products add up without any rounding. All
// error is that of quantising, which is measured. docs/numerics.md, "The int16 screen", derives it.
#include "kernels/cpu/screen_int16.h"

#include <utility>

#include "kernels/cpu/int16_codebook.h"
#include "kernels/cpu/int16_worker.h"
#include "kernels/cpu/nearest_code_screen.h"

namespace vqgan_fast {
namespace {

constexpr int64_t kMostDim = 16384;
// A tile takes as long for few elements as for 64.
[[maybe_unused]] constexpr int64_t kLeastTileDim = 40;

const ScreenInt16Kernels& kernels_for(SimdLevel level, int64_t dim) {
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
#ifdef VQGAN_FAST_HAS_SCREEN_INT16_AVX2
  if (level >= SimdLevel::kAvx2) return kScreenInt16Avx2;
#endif
  return kScreenInt16Baseline;
}

class ScreenInt16 final : public CodeScreen {
 public:
  ScreenInt16(std::unique_ptr<const Int16Codebook> codebook, const ScreenInt16Kernels& kernels)
      : codebook_(std::move(codebook)), kernels_(kernels) {}

  // Tiles multiply faster than codes come from behind the second-level cache.
  int64_t block_rows() const override {
    return kernels_.layout == Int16Layout::kBytes ? kMostRows : CodeScreen::block_rows();
  }
  std::unique_ptr<Worker> worker() const override {
    return std::make_unique<Int16Worker>(*codebook_, kernels_, block_rows());
  }
  size_t bytes() const override {
    const int64_t code_bytes = codebook_->code_elements * sizeof(int16_t) + sizeof(int32_t);
    return codebook_->num_panels * codebook_->panel_codes * code_bytes +
           codebook_->dim * sizeof(double) + sizeof(Int16Codebook) + sizeof(ScreenInt16);
  }
  int64_t num_panels() const override { return codebook_->num_panels; }

 private:
  const std::unique_ptr<const Int16Codebook> codebook_;
  const ScreenInt16Kernels& kernels_;
};

}  // namespace

std::shared_ptr<const CodeScreen> make_screen_int16(const CodeSource& codes, SimdLevel level,
                                                    const Parallel& parallel) {
  if (codes.num_codes < 1 || codes.dim < 1 || codes.dim > kMostDim) return nullptr;
  const ScreenInt16Kernels& kernels = kernels_for(level, codes.dim);
  auto packed = pack_int16_codebook(codes, kernels, parallel);
  if (packed == nullptr) return nullptr;
  return std::make_shared<ScreenInt16>(std::move(packed), kernels);
}

}  // namespace vqgan_fast
