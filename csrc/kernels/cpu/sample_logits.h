// From logits to a code. The loops over codes are written for a compiler to vectorise and exist
// once for each SIMD level; everything else is integer arithmetic.
#pragma once

#include <cstdint>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd_level.h"
#include "kernels/draw_rule.h"

namespace vqgan_fast {

struct SampleLogitsArgs {
  const float* logits = nullptr;  // row b begins at b * logits_stride
  int64_t logits_stride = 0;
  const float* uncond_logits = nullptr;  // or null
  int64_t uncond_stride = 0;
  int64_t rows = 0;
  int64_t num_codes = 0;
  const int64_t* seeds = nullptr;
  const int64_t* cells = nullptr;
  DrawRule rule;
  int64_t* codes = nullptr;   // (rows,); -1 where a row has no largest finite logit
  float* logprobs = nullptr;  // (rows,)
};

struct SampleLoops {
  // relative[v] = guided logit of v minus the largest one, which is returned; NaN if one is NaN.
  double (*relative)(const float* logits, const float* uncond, double guidance, int64_t count,
                     double* relative);
  // The sum of the masses of all.
  uint64_t (*total_mass)(const double* relative, int64_t count);
  void (*divide)(const double* relative, double temperature, int64_t count, double* scores);
  void (*masses)(const double* scores, int64_t count, uint64_t* masses);
  // noisy[i] = scores[i] + the noise of codes[i].
  void (*add_noise)(const double* scores, const uint32_t* codes, int64_t count, uint64_t seed,
                    uint32_t cell, double* noisy);
};

extern const SampleLoops kSampleLoopsBaseline;
#ifdef VQGAN_FAST_HAS_SAMPLE_LOGITS_AVX2
extern const SampleLoops kSampleLoopsAvx2;
#endif

void sample_logits(const SampleLogitsArgs& args, SimdLevel level, const Parallel& parallel);

}  // namespace vqgan_fast
