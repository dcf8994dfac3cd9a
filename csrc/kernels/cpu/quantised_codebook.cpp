#include "kernels/cpu/quantised_codebook.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/codebook_centre.h"
#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/row_block.h"

namespace vqgan_fast {
namespace {

// Codes that are read at a time: few, so that they stay in the first-level cache.
constexpr int64_t kLoadedCodes = 8;
// Beyond these the fp64 sums of the definition itself may underflow or overflow.
constexpr double kLeastNorm = 0x1p-400;
constexpr double kMostNorm = 0x1p400;
// If no code is farther from the centre, relative to it, all may be alike: the mean was rounded.
constexpr double kRoundedMean = 0x1p-44;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
// The squared norm of what is no code.
constexpr double kNoNorm = kInfinity;

// How large what is quantised may become.
struct Range {
  double unit;  // of scores
  double norm;  // of a quantised vector: 2.25 squares of it are a little less than the most score
  double element;  // of a scaled vector
};
Range range_of(QuantisedLayout layout) {
  switch (layout) {
    case QuantisedLayout::kPairs:
      return {1.0, 30700.0, kInfinity};
    case QuantisedLayout::kBytes:
      // Elements with a high and a low byte, rounded to integers and negated or not, end here.
      return {256.0, 490000.0, 127 * 256 + 127 - 1};
    case QuantisedLayout::kQuads:
      break;
  }
  return {1.0, kInfinity, 127.0 * (1.0 - 0x1p-50)};  // no product with the scale is above 127
}

class Packing {
 public:
  Packing(const CodeSource& codes, const QuantisedKernels& kernels, const Parallel& parallel,
          QuantisedCodebook* packed)
      : codes_(codes), kernels_(kernels), parallel_(parallel), packed_(packed) {}

  // The largest norm of a code, and in layouts of bytes the largest element.
  void find_largest();
  double most_norm() const { return std::sqrt(most_norm2_); }
  double most_element() const { return most_element_; }
  void fill_panels();

 private:
  // Calls body(p) for every panel; each thread has a `scratch` of its own.
  struct Scratch {
    CodeReader reader;
    std::vector<double> loaded;
    std::vector<int16_t> quantised;
  };
  template <class Body>
  void for_each_panel(const Body& body);
  const double* load_code(int64_t p, int64_t k, Scratch* scratch) const;
  // From code to code before they are placed.
  int64_t scratch_stride() const { return std::max(packed_->code_elements, packed_->dim); }
  void place_pairs(const int16_t* quantised, int16_t* panel) const;

  const CodeSource& codes_;
  const QuantisedKernels& kernels_;
  const Parallel& parallel_;
  QuantisedCodebook* const packed_;
  double most_norm2_ = 0.0, most_element_ = 0.0;
};

template <class Body>
void Packing::for_each_panel(const Body& body) {
  const int64_t code_elements = packed_->panel_codes * packed_->dim;
  const int64_t grain = std::max<int64_t>(1, 16384 / code_elements);
  parallel_.run(0, packed_->num_panels, grain, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    Scratch scratch = {CodeReader(codes_), {}, {}};
    scratch.loaded.resize(kLoadedCodes * packed_->dim);
    scratch.quantised.resize(packed_->panel_codes * scratch_stride());
    for (int64_t p = begin; p < end; ++p) body(p, &scratch);
  });
}

// Code k of panel p, which is read in ascending order.
const double* Packing::load_code(int64_t p, int64_t k, Scratch* scratch) const {
  const int64_t last = std::min((p + 1) * packed_->panel_codes, packed_->num_codes);
  const int64_t i = (k - p * packed_->panel_codes) % kLoadedCodes;
  if (i == 0) scratch->reader.load(k, std::min(kLoadedCodes, last - k), scratch->loaded.data());
  return scratch->loaded.data() + i * packed_->dim;
}

void Packing::find_largest() {
  const int64_t dim = packed_->dim, panel_codes = packed_->panel_codes;
  const bool in_bytes = kernels_.bytes.place_code != nullptr;
  std::vector<double> largest(packed_->num_panels, 0.0), elements(packed_->num_panels, 0.0);
  for_each_panel([&](int64_t p, Scratch* scratch) {
    const int64_t last = std::min((p + 1) * panel_codes, packed_->num_codes);
    for (int64_t k = p * panel_codes; k < last; ++k) {
      const double* code = load_code(p, k, scratch);
      double norm2 = kernels_.norm2(code, packed_->centre.data(), dim);
      if (!std::isfinite(norm2)) {
        if (!all_finite(code, dim)) continue;
        norm2 = kNoNorm;  // too large for any scale
      }
      largest[p] = std::max(largest[p], norm2);
      if (!in_bytes) continue;
      const double element = kernels_.bytes.largest(code, packed_->centre.data(), dim);
      elements[p] = std::max(elements[p], element);
    }
  });
  most_norm2_ = *std::max_element(largest.begin(), largest.end());
  most_element_ = *std::max_element(elements.begin(), elements.end());
}

void Packing::fill_panels() {
  const int64_t code_elements = packed_->code_elements, panel_codes = packed_->panel_codes;
  const int64_t dim = packed_->dim, stride = scratch_stride();
  const bool in_bytes = kernels_.bytes.place_code != nullptr;
  const double scale = packed_->scale;
  const double* centre = packed_->centre.data();
  std::vector<double> residuals(packed_->num_panels, 0.0), lows(packed_->num_panels, 0.0);
  for_each_panel([&](int64_t p, Scratch* scratch) {
    const int64_t first = p * panel_codes;
    int16_t* panel = packed_->codes.get() + first * code_elements;
    for (int64_t k = first; k < first + panel_codes; ++k) {
      int16_t* q = scratch->quantised.data() + (k - first) * stride;
      const double* code = k < packed_->num_codes ? load_code(p, k, scratch) : nullptr;
      // Once more: kept from the first time, the norms would be memory for every code. If another
      // thread wrote a larger code meanwhile, it would not fit.
      const double norm2 = code == nullptr ? kNoNorm : kernels_.norm2(code, centre, dim);
      if (!(norm2 <= most_norm2_) ||
          (in_bytes && !(kernels_.bytes.largest(code, centre, dim) <= most_element_))) {
        std::fill(q, q + stride, int16_t{0});
        packed_->norms[k] = kNoCodeNorm;
      } else {
        std::fill(q + dim, q + stride, int16_t{0});
        const double residual = kernels_.quantise(code, centre, scale, dim, q);
        residuals[p] = std::max(residuals[p], residual);
        packed_->norms[k] = static_cast<int32_t>(std::lrint(norm2 * scale * scale / packed_->unit));
      }
      if (in_bytes)
        lows[p] = std::max(lows[p], kernels_.bytes.place_code(q, dim, panel, k - first));
    }
    if (!in_bytes) place_pairs(scratch->quantised.data(), panel);
  });
  packed_->max_residual = std::sqrt(*std::max_element(residuals.begin(), residuals.end()));
  packed_->max_low = std::sqrt(*std::max_element(lows.begin(), lows.end()));
}

void Packing::place_pairs(const int16_t* quantised, int16_t* panel) const {
  const int64_t code_elements = packed_->code_elements;
  for (int64_t i = 0; i < code_elements; i += 2) {
    for (int64_t k = 0; k < packed_->panel_codes; ++k, panel += 2) {
      const int16_t* pair = quantised + k * code_elements + i;
      panel[0] = pair[0];
      panel[1] = pair[1];
    }
  }
}

}  // namespace

std::unique_ptr<QuantisedCodebook> pack_quantised_codebook(const CodeSource& codes,
                                                           const QuantisedKernels& kernels,
                                                           const Parallel& parallel) {
  const DefaultFloatMode float_mode;
  auto packed = std::make_unique<QuantisedCodebook>();
  const int64_t num_codes = codes.num_codes, dim = codes.dim;
  packed->num_codes = num_codes;
  packed->dim = dim;
  packed->code_elements =
      kernels.bytes.code_elements != nullptr ? kernels.bytes.code_elements(dim) : (dim + 1) / 2 * 2;
  packed->panel_codes = kernels.vectors * kernels.lanes;
  packed->num_panels = (num_codes + packed->panel_codes - 1) / packed->panel_codes;
  packed->centre = find_centre(codes);

  Packing packing(codes, kernels, parallel, packed.get());
  packing.find_largest();
  const double norm = packing.most_norm();
  double centre2 = 0.0;
  for (const double c : packed->centre) centre2 += c * c;
  if (norm <= kRoundedMean * std::sqrt(centre2)) return nullptr;
  if (!(norm >= kLeastNorm && norm <= kMostNorm)) return nullptr;
  const Range range = range_of(kernels.layout);
  packed->unit = range.unit;
  packed->most_quantised = range.norm;
  packed->most_norm = range.norm - 1.0 - 0.5 * std::sqrt(dim);
  packed->most_element = range.element;
  packed->scale = std::min(packed->most_norm / norm, packed->most_element / packing.most_element());
  packed->code_norm = packed->scale * norm;
  const int64_t padded = packed->num_panels * packed->panel_codes;
  packed->codes = allocate_array<int16_t>(padded * packed->code_elements);
  packed->norms = allocate_array<int32_t>(padded);
  packing.fill_panels();
  return packed;
}

}  // namespace vqgan_fast
