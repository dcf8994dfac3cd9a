// The loops of sample_logits.h: each SIMD level includes this and is compiled with its own flags.
#pragma once

#include "kernels/cpu/sample_logits.h"
#include "kernels/philox.h"

namespace vqgan_fast {
namespace {

double relative_logits(const float* logits, const float* uncond, double guidance, int64_t count,
                       double* relative) {
  constexpr int kLanes = 16;
  if (uncond == nullptr) {
    for (int64_t v = 0; v < count; ++v) relative[v] = logits[v];
  } else {
    for (int64_t v = 0; v < count; ++v) {
      relative[v] = guided_logit(logits[v], uncond[v], guidance);
    }
  }
  // A NaN is no maximum, but one is left over where a number minus itself is not 0.
  double lanes[kLanes], nan[kLanes] = {};
  for (int c = 0; c < kLanes; ++c) lanes[c] = relative[0];
  int64_t v = 0;
  for (; v + kLanes <= count; v += kLanes) {
    for (int c = 0; c < kLanes; ++c) {
      lanes[c] = relative[v + c] > lanes[c] ? relative[v + c] : lanes[c];
      nan[c] = relative[v + c] != relative[v + c] ? relative[v + c] : nan[c];
    }
  }
  for (; v < count; ++v) {
    lanes[0] = relative[v] > lanes[0] ? relative[v] : lanes[0];
    nan[0] = relative[v] != relative[v] ? relative[v] : nan[0];
  }
  double largest = lanes[0];
  for (int c = 0; c < kLanes; ++c) {
    largest = lanes[c] > largest ? lanes[c] : largest;
    if (nan[c] != nan[c]) return nan[c];
  }
  for (v = 0; v < count; ++v) relative[v] -= largest;
  return largest;
}

uint64_t total_mass_of(const double* relative, int64_t count) {
  uint64_t total = 0;
  for (int64_t v = 0; v < count; ++v) total += fixed_point_mass(relative[v]);
  return total;
}

void divide_by(const double* relative, double temperature, int64_t count, double* scores) {
  for (int64_t v = 0; v < count; ++v) scores[v] = relative[v] / temperature;
}

void masses_of(const double* scores, int64_t count, uint64_t* masses) {
  for (int64_t v = 0; v < count; ++v) masses[v] = fixed_point_mass(scores[v]);
}

void add_noise_to(const double* scores, const uint32_t* codes, int64_t count, uint64_t seed,
                  uint32_t cell, double* noisy) {
  for (int64_t v = 0; v < count; ++v) {
    noisy[v] = scores[v] + gumbel_noise(philox_word(seed, cell, codes[v]));
  }
}

constexpr SampleLoops kLoops = {relative_logits, total_mass_of, divide_by, masses_of, add_noise_to};

}  // namespace
}  // namespace vqgan_fast
