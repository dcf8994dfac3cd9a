// How far a computed score may lie from the true one: docs/numerics.md, "On CUDA", derives each
// term. Host and device, so that tests can press against it.
#pragma once

#include <cstdint>

#include "kernels/cuda/tiling.h"

namespace vqgan_fast {

constexpr float kUnitRoundoff = 0x1p-24f;  // of fp32
// Sums below are computed in fp32, of at most 1024 terms, and the formulas have a dozen operations.
constexpr float kBoundSlack = 1.01f;
// Columns that are added to the depth, for the first accumulation.
constexpr int kDepthSlack = 16;
// More than all that underflow can take, in units where the largest element is about 2^13.
constexpr float kUnderflow = 0x1p-40f;

// Of one vector in an image, in the image's scale.
struct ImageError {
  float norm;      // of the vector
  float residual;  // of what the image left out
  float low;       // of the image's low part
};

// Upper limit of (score of the definition's choice) - (smallest computed score), for a row whose
// scores are 2^r half_norm - x . y with scale = 2^r.
VQGAN_FAST_HOST_DEVICE inline float screen_margin(const ImageError& x, float scale,
                                                  const ImageError& y, int64_t dim, int depth) {
  const float d = static_cast<float>(dim);
  const float x_norm = x.norm + kUnderflow;
  const float dx = x.residual + kUnitRoundoff * x_norm + kUnderflow;
  const float dy = y.residual + kUnitRoundoff * y.norm + kUnderflow;
  const float product = (x_norm + dx) * (y.norm + dy);
  const float half_norm = 0.5f * scale * y.norm * y.norm;
  const float image = dx * (y.norm + dy) + x_norm * dy + x.low * y.low;
  const float sums = static_cast<float>(depth + kDepthSlack) * 0x1p-22f * product +
                     (0.5f * d + 16.0f) * kUnitRoundoff * half_norm;
  const float score = 0x1p-22f * (half_norm + product);
  const float reach = x_norm + scale * y.norm;
  const float definition = (d + 8.0f) * 0x1p-53f * (reach / scale) * reach;
  return kBoundSlack * (2.0f * (image + sums + score) + definition);
}

// Every code whose direct fp32 distance is above this is farther, by the definition, than the code
// with the direct distance `smallest`. numerics.md, "Direct distances".
VQGAN_FAST_HOST_DEVICE inline double direct_limit(float smallest, int64_t dim) {
  const double n = static_cast<double>(dim + 8) * 0x1p-24;
  const double underflow = static_cast<double>(dim) * 0x1p-148;
  return (static_cast<double>(smallest) + underflow) / (1.0 - 2.0 * n) + underflow;
}

}  // namespace vqgan_fast
