#include "kernels/cpu/packed_codebook.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>

#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/nearest_code_kernels.h"
#include "kernels/cpu/row_block.h"

namespace vqgan_fast {
namespace {

// Within these the largest element of the codebook needs no scaling: products and squares of what
// fp32 holds stay far from its limits.
constexpr double kLeastUnscaled = 0x1p-40;
constexpr double kMostUnscaled = 0x1p40;
// Beyond these the fp64 sums of the definition itself may underflow or overflow.
constexpr double kLeastScaled = 0x1p-400;
constexpr double kMostScaled = 0x1p400;

std::unique_ptr<float[], FreeDeleter> allocate_lines(int64_t num_floats) {
  constexpr size_t kLine = 64;
  const size_t bytes =
      (static_cast<size_t>(num_floats) * sizeof(float) + kLine - 1) / kLine * kLine;
  auto* floats = static_cast<float*>(std::aligned_alloc(kLine, bytes));
  if (floats == nullptr) throw std::bad_alloc();
  return std::unique_ptr<float[], FreeDeleter>(floats);
}

// The mean of up to 256 codes spread over the codebook.
std::vector<double> find_centre(const Rows& codebook, int64_t num_codes, int64_t dim) {
  const int64_t samples = std::min<int64_t>(num_codes, 256);
  std::vector<double> centre(dim, 0.0), code(dim);
  int64_t taken = 0;
  for (int64_t i = 0; i < samples; ++i) {
    load_rows(codebook, i * num_codes / samples, 1, dim, code.data());
    if (!all_finite(code.data(), dim)) continue;
    ++taken;
    for (int64_t d = 0; d < dim; ++d) centre[d] += code[d];
  }
  for (double& c : centre) {
    c /= std::max<int64_t>(taken, 1);
    if (!std::isfinite(c)) c = 0.0;
  }
  return centre;
}

// Fills panels and half_norms at packed->scale, sets max_norm, and returns the largest absolute
// element of any finite code, centred but not scaled.
double fill_panels(const Rows& codebook, int64_t num_codes, int64_t dim, const Parallel& parallel,
                   PackedCodebook* packed) {
  const int64_t num_panels = (num_codes + kPanelCodes - 1) / kPanelCodes;
  std::vector<double> panel_max(num_panels), panel_norm2(num_panels);
  const int64_t grain = std::max<int64_t>(1, 16384 / (kPanelCodes * dim));
  parallel.run(0, num_panels, grain, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    std::vector<double> codes(kPanelCodes * dim);
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = p * kPanelCodes;
      const int64_t count = std::min<int64_t>(kPanelCodes, num_codes - first);
      load_rows(codebook, first, count, dim, codes.data());
      float* panel = packed->panels.get() + first * dim;
      double max_abs = 0.0, max_norm2 = 0.0;
      for (int64_t lane = 0; lane < kPanelCodes; ++lane) {
        float* out = panel + lane;
        float* half_norm = packed->half_norms.get() + first + lane;
        const double* code = codes.data() + lane * dim;
        if (lane >= count || !all_finite(code, dim)) {
          for (int64_t d = 0; d < dim; ++d) out[d * kPanelCodes] = 0.0f;
          *half_norm = std::numeric_limits<float>::infinity();
          continue;
        }
        double norm2 = 0.0;
        for (int64_t d = 0; d < dim; ++d) {
          const double centred = code[d] - packed->centre[d];
          const double scaled = centred * packed->scale;
          max_abs = std::max(max_abs, std::fabs(centred));
          norm2 += scaled * scaled;
          out[d * kPanelCodes] = static_cast<float>(scaled);
        }
        *half_norm = static_cast<float>(0.5 * norm2);
        max_norm2 = std::max(max_norm2, norm2);
      }
      panel_max[p] = max_abs;
      panel_norm2[p] = max_norm2;
    }
  });
  packed->max_norm = std::sqrt(*std::max_element(panel_norm2.begin(), panel_norm2.end()));
  return *std::max_element(panel_max.begin(), panel_max.end());
}

}  // namespace

PackedCodebook pack_codebook(const Rows& codebook, int64_t num_codes, int64_t dim,
                             const Parallel& parallel) {
  const DefaultFloatMode float_mode;
  const int64_t padded = (num_codes + kPanelCodes - 1) / kPanelCodes * kPanelCodes;
  PackedCodebook packed;
  packed.panels = allocate_lines(padded * dim);
  packed.half_norms = allocate_lines(padded);
  packed.centre = find_centre(codebook, num_codes, dim);
  const double max_abs = fill_panels(codebook, num_codes, dim, parallel, &packed);
  packed.usable = max_abs >= kLeastScaled && max_abs <= kMostScaled;
  if (packed.usable && !(max_abs >= kLeastUnscaled && max_abs <= kMostUnscaled)) {
    packed.scale = std::ldexp(1.0, -std::ilogb(max_abs));
    fill_panels(codebook, num_codes, dim, parallel, &packed);
  }
  return packed;
}

}  // namespace vqgan_fast
