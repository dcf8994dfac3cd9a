// A quantised codebook as a screen, for the worker that knows what to do with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "kernels/cpu/nearest_code_screen.h"
#include "kernels/cpu/quantised_codebook.h"
#include "kernels/cpu/quantised_kernels.h"

namespace vqgan_fast {

// A WorkerType is made of a codebook, the kernels and the most rows of a block.
template <class WorkerType>
class QuantisedScreen final : public CodeScreen {
 public:
  QuantisedScreen(std::unique_ptr<const QuantisedCodebook> codebook,
                  const QuantisedKernels& kernels)
      : codebook_(std::move(codebook)), kernels_(kernels) {}

  // The tiles of kBytes multiply faster than codes come from behind the second-level cache.
  int64_t block_rows() const override {
    return kernels_.layout == QuantisedLayout::kBytes ? kMostRows : CodeScreen::block_rows();
  }
  std::unique_ptr<Worker> worker() const override {
    return std::make_unique<WorkerType>(*codebook_, kernels_, block_rows());
  }
  size_t bytes() const override {
    const int64_t code_bytes = codebook_->code_elements * sizeof(int16_t) + sizeof(int32_t);
    return codebook_->num_panels * codebook_->panel_codes * code_bytes +
           codebook_->dim * sizeof(double) + sizeof(QuantisedCodebook) + sizeof(*this);
  }
  int64_t num_panels() const override { return codebook_->num_panels; }

 private:
  const std::unique_ptr<const QuantisedCodebook> codebook_;
  const QuantisedKernels& kernels_;
};

// Null where there is no bound for the codebook.
template <class WorkerType>
std::shared_ptr<const CodeScreen> make_quantised_screen(const CodeSource& codes,
                                                        const QuantisedKernels& kernels,
                                                        const Parallel& parallel) {
  // Sums of so many products and norms fit into int32.
  constexpr int64_t kMostDim = 16384;
  if (codes.num_codes < 1 || codes.dim < 1 || codes.dim > kMostDim) return nullptr;
  auto packed = pack_quantised_codebook(codes, kernels, parallel);
  if (packed == nullptr) return nullptr;
  return std::make_shared<QuantisedScreen<WorkerType>>(std::move(packed), kernels);
}

}  // namespace vqgan_fast
