#include "kernels/cpu/screen_fp32.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "kernels/cpu/aligned_memory.h"
#include "kernels/cpu/codebook_centre.h"
#include "kernels/cpu/float_mode.h"
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
// Panels that stay in the first cache while the rows of a block pass.
constexpr int64_t kGroupFloats = 5120;
// Elements worth a thread.
constexpr int64_t kLeastWork = 16384;
constexpr int kMostLanes = 16;

const ScreenFp32Level& highest_level(SimdLevel level) {
#ifdef VQGAN_FAST_HAS_SCREEN_FP32_AVX512
  if (level >= SimdLevel::kAvx512) return kScreenFp32Avx512;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_FP32_AVX2
  if (level >= SimdLevel::kAvx2) return kScreenFp32Avx2;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_FP32_NEON
  if (level >= SimdLevel::kNeon) return kScreenFp32Neon;
#endif
  static_cast<void>(level);
  return kScreenFp32Baseline;
}

// docs/numerics.md, "The fp32 screen": 2 R + E of a row of norm X, for codes of norm max_norm at
// most.
Fp32Margin margin_for(int64_t dim, double max_norm) {
  const double terms = static_cast<double>(dim + 8);
  const double gamma = terms * 0x1p-24 / (1.0 - terms * 0x1p-24);
  // The norm of a row is summed in fp32: it may be short by this factor.
  const double norm_error = 1.0 + terms * 0x1p-24;
  // What evaluating this polynomial in fp32 may lose, many times over.
  const double slack = 1.0 + 0x1p-16;
  const double definition = terms * 0x1p-53;
  Fp32Margin margin;
  margin.constant = static_cast<float>(slack * (gamma + definition) * max_norm * max_norm);
  margin.linear = static_cast<float>(slack * norm_error * 2.0 * (gamma + definition) * max_norm);
  margin.square = static_cast<float>(slack * norm_error * norm_error * definition);
  return margin;
}

class ScreenFp32 final : public CodeScreen {
 public:
  ScreenFp32(const CodeSource& codes, SimdLevel level);

  // Whether the bound holds.
  bool pack(const CodeSource& codes, const Parallel& parallel);

  std::unique_ptr<Worker> worker() const override;
  size_t bytes() const override {
    return num_panels_ * panel_floats_ * sizeof(float) + centre_.size() * sizeof(double);
  }
  int64_t num_panels() const override { return num_panels_; }

 private:
  class Scan;
  struct Largest {
    double element = 0.0;  // magnitude, centred and scaled
    double norm2 = 0.0;
    void take(const Largest& other) {
      element = std::max(element, other.element);
      norm2 = std::max(norm2, other.norm2);
    }
  };
  Largest fill(const CodeSource& source, double scale, const Parallel& parallel);
  Largest fill_vector(const double* codes, int64_t count, double scale, float* half_norms);
  double largest_element(const CodeSource& source, const Parallel& parallel) const;

  const ScreenFp32Level& level_;
  const ScreenFp32Kernel& kernel_;
  const int64_t num_codes_;
  const int64_t dim_;
  const int64_t panel_codes_;
  const int64_t panel_floats_;
  const int64_t num_panels_;
  AlignedArray<float> panels_;
  int64_t centre_rows_;
  std::vector<double> centre_;  // centre_rows_ times; any vector will do for the centre
  double scale_ = 1.0;          // a power of two
  Fp32Margin margin_;
};

ScreenFp32::ScreenFp32(const CodeSource& codes, SimdLevel level)
    : level_(highest_level(level)),
      kernel_(*level_.kernel(codes.num_codes, codes.dim)),
      num_codes_(codes.num_codes),
      dim_(codes.dim),
      panel_codes_(kernel_.vectors * kernel_.lanes),
      panel_floats_((1 + dim_) * panel_codes_),
      num_panels_((num_codes_ + panel_codes_ - 1) / panel_codes_),
      panels_(allocate_array<float>(num_panels_ * panel_floats_)),
      centre_rows_(std::max<int64_t>(1, 64 / dim_)) {
  const std::vector<double> centre = find_centre(codes);
  for (int64_t r = 0; r < centre_rows_; ++r) {
    centre_.insert(centre_.end(), centre.begin(), centre.end());
  }
}

bool ScreenFp32::pack(const CodeSource& codes, const Parallel& parallel) {
  Largest largest = fill(codes, 1.0, parallel);
  if (!(largest.element >= kLeastUnscaled && largest.element <= kMostUnscaled)) {
    const double element = largest_element(codes, parallel);
    if (!(element >= kLeastScaled && element <= kMostScaled)) return false;
    if (!(element >= kLeastUnscaled && element <= kMostUnscaled)) {
      scale_ = std::ldexp(1.0, -std::ilogb(element));
      largest = fill(codes, scale_, parallel);
    }
  }
  margin_ = margin_for(dim_, std::sqrt(largest.norm2));
  return true;
}

// Packs all panels; an element that fp32 cannot hold counts as an infinite one.
ScreenFp32::Largest ScreenFp32::fill(const CodeSource& source, double scale,
                                     const Parallel& parallel) {
  std::vector<Largest> of_panel(num_panels_);
  const int64_t grain = std::max<int64_t>(1, kLeastWork / panel_floats_);
  parallel.run(0, num_panels_, grain, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    CodeReader reader(source);
    std::vector<double> codes(kernel_.lanes * dim_);
    for (int64_t p = begin; p < end; ++p) {
      for (int64_t v = 0; v < kernel_.vectors; ++v) {
        const int64_t first = p * panel_codes_ + v * kernel_.lanes;
        const int64_t count = std::clamp<int64_t>(num_codes_ - first, 0, kernel_.lanes);
        reader.load(first, count, codes.data());
        of_panel[p].take(fill_vector(codes.data(), count, scale,
                                     panels_.get() + p * panel_floats_ + v * kernel_.lanes));
      }
    }
  });
  Largest all;
  for (const Largest& panel : of_panel) all.take(panel);
  return all;
}

// Packs one vector of a panel, whose half norms lie at half_norms.
ScreenFp32::Largest ScreenFp32::fill_vector(const double* codes, int64_t count, double scale,
                                            float* half_norms) {
  double norm2[kMostLanes];
  float element = 0.0f;
  float* elements = half_norms + panel_codes_;
  level_.pack(codes, count, dim_, centre_.data(), scale, panel_codes_, elements, norm2, &element);
  Largest largest;
  largest.element = element;
  for (int64_t i = 0; i < kernel_.lanes; ++i) {
    if (i < count && std::isfinite(norm2[i])) {
      half_norms[i] = static_cast<float>(0.5 * norm2[i]);
      largest.norm2 = std::max(largest.norm2, norm2[i]);
      continue;
    }
    half_norms[i] = std::numeric_limits<float>::infinity();
    for (int64_t d = 0; d < dim_; ++d) elements[d * panel_codes_ + i] = 0.0f;
    if (i < count && all_finite(codes + i * dim_, dim_)) {
      largest.element = std::numeric_limits<double>::infinity();
    }
  }
  return largest;
}

// The largest magnitude of an element of a finite code, centred but not scaled.
double ScreenFp32::largest_element(const CodeSource& source, const Parallel& parallel) const {
  std::vector<double> of_panel(num_panels_);
  parallel.run(0, num_panels_, 1, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    CodeReader reader(source);
    std::vector<double> code(dim_);
    for (int64_t k = begin * panel_codes_; k < std::min(end * panel_codes_, num_codes_); ++k) {
      reader.load(k, 1, code.data());
      if (!all_finite(code.data(), dim_)) continue;
      double& largest = of_panel[k / panel_codes_];
      for (int64_t d = 0; d < dim_; ++d) {
        largest = std::max(largest, std::fabs(code[d] - centre_[d]));
      }
    }
  });
  return *std::max_element(of_panel.begin(), of_panel.end());
}

class ScreenFp32::Scan final : public CodeScreen::Worker {
 public:
  explicit Scan(const ScreenFp32& screen)
      : screen_(screen),
        x_(allocate_array<float>(screen.block_rows() * screen.dim_)),
        states_(allocate_array<float>(screen.block_rows() * 3 * screen.kernel_.lanes)) {}

  void run(const double* z, int64_t num_rows, int64_t first_panel, int64_t last_panel,
           RowCandidates* out) override {
    if (num_rows == 0) return;
    const ScreenFp32& s = screen_;
    s.level_.prepare(z, num_rows, s.dim_, s.centre_.data(), s.centre_rows_, s.scale_, s.margin_,
                     x_.get(), margins_);
    const int64_t lanes = s.kernel_.lanes;
    for (int64_t r = 0; r < num_rows; ++r) {
      float* state = states_.get() + r * 3 * lanes;
      std::fill(state, state + 2 * lanes, std::numeric_limits<float>::infinity());
      std::fill(state + 2 * lanes, state + 3 * lanes, 0.0f);
    }
    const int64_t group = std::max<int64_t>(1, kGroupFloats / s.panel_floats_);
    for (int64_t p = first_panel; p < last_panel; p += group) {
      s.kernel_.scan(x_.get(), num_rows, s.dim_, s.panels_.get() + p * s.panel_floats_,
                     std::min(group, last_panel - p), static_cast<int32_t>(p), states_.get());
    }
    s.kernel_.resolve(x_.get(), num_rows, s.dim_, s.panels_.get(), states_.get(), margins_, out);
  }

 private:
  const ScreenFp32& screen_;
  AlignedArray<float> x_;       // the rows, centred and scaled
  AlignedArray<float> states_;  // what is known of each
  float margins_[kMostRows];
};

std::unique_ptr<CodeScreen::Worker> ScreenFp32::worker() const {
  return std::make_unique<Scan>(*this);
}

}  // namespace

std::shared_ptr<const CodeScreen> make_screen_fp32(const CodeSource& codes, SimdLevel level,
                                                   const Parallel& parallel) {
  const DefaultFloatMode float_mode;
  const bool too_long = !((codes.dim + 8) * 0x1p-24 < 0.5);
  if (too_long || codes.num_codes > std::numeric_limits<int32_t>::max()) return nullptr;
  auto screen = std::make_shared<ScreenFp32>(codes, level);
  if (!screen->pack(codes, parallel)) return nullptr;
  return screen;
}

}  // namespace vqgan_fast
