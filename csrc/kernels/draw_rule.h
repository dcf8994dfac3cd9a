// How a code is drawn from its logits: what sample_logits' kernels of every device share.
// vqgan_fast/ops/reference/sample_logits.py is the definition.
#pragma once

#include <cstdint>

#include "kernels/decode_math.h"

namespace vqgan_fast {

struct DrawRule {
  double guidance = 1.0;
  double temperature = 1.0;  // 0: greedy
  int64_t top_k = 0;         // 0: all
  double top_p = 1.0;
  double log_min_p = 0.0;  // -infinity: all

  bool greedy() const { return temperature == 0.0; }
};

namespace {

constexpr double kFixedPoint = 0x1p40;  // a mass of 1
constexpr int kDigitBits = 8;           // of a rank that are looked at together
constexpr int kDigits = 1 << kDigitBits;

// uncond + guidance (cond - uncond); what is -infinity in either is forbidden.
VQGAN_FAST_MATH double guided_logit(double cond, double uncond, double guidance) {
  const double infinity = double_from_bits(0x7ff0000000000000u);
  const double value = uncond + guidance * (cond - uncond);
  return cond == -infinity || uncond == -infinity ? -infinity : value;
}

// exp(score) in units of 2^-40, rounded to nearest even; score <= 0.
VQGAN_FAST_MATH uint64_t fixed_point_mass(double score) {
  const double units = exp_of_negative(score) * kFixedPoint;
  return double_to_bits(units + 0x1p52) - 0x4330000000000000u;
}

// Scores are zero or less: their magnitudes' bits, ascending, rank them from the highest down.
VQGAN_FAST_MATH uint64_t rank_of(double score) {
  return double_to_bits(score) & 0x7fffffffffffffffu;
}

}  // namespace
}  // namespace vqgan_fast
