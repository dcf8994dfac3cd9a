// The loops of the fp32 screen, which every SIMD level writes for itself, and the layout they
// share. docs/numerics.md, "How the index is found".
#pragma once

#include <cstdint>

#include "kernels/cpu/nearest_code_screen.h"

namespace vqgan_fast {

// margin(X) = constant + linear X + square X^2 for a row of norm X: how far above the smallest
// score the score of the nearest code may lie.
struct Fp32Margin {
  float constant;
  float linear;
  float square;
};

// Codes lie in lanes: a panel is `vectors` times `lanes` codes. First come their half norms
// 0.5 ||y||^2, then their elements:
//
//   panel[(1 + d) * vectors * lanes + v * lanes + lane] = y[d] of the code v * lanes + lane
//
// A code that is not finite, and what lies behind the last one, has an infinite half norm and
// zeros.
//
// The state of a row is 3 * lanes words, of each lane: `best`, the smallest minimum of any panel
// over its vectors; `loser`, the smallest minimum of the other panels; `panel`, an int32, the panel
// of `best`. It begins as infinity, infinity, 0.
struct ScreenFp32Kernel {
  int lanes;
  int vectors;

  // Takes num_panels panels, the first of which is panel `first`, into the states of the rows
  // x[r * dim + d]. score = 0.5 ||y||^2 - x.y in fp32: at most dim products and a half norm are
  // summed in sequence, a product being rounded before it is subtracted or not.
  void (*scan)(const float* x, int64_t num_rows, int64_t dim, const float* panels,
               int64_t num_panels, int32_t first, float* states);

  // Writes what the states leave. panels is the packed codebook from panel 0 on; an infinite margin
  // says that there is no bound for the row.
  void (*resolve)(const float* x, int64_t num_rows, int64_t dim, const float* panels,
                  const float* states, const float* margins, RowCandidates* out);
};

struct ScreenFp32Level {
  // The kernel for a codebook of this size.
  const ScreenFp32Kernel* (*kernel)(int64_t num_codes, int64_t dim);

  // x[r * dim + d] = fp32 of (z[r * dim + d] - centre[d]) * scale, and the margins of the rows:
  // infinite where a norm is above kMostRowNorm. `centre` repeats the centre centre_rows times.
  void (*prepare)(const double* z, int64_t num_rows, int64_t dim, const double* centre,
                  int64_t centre_rows, double scale, const Fp32Margin& margin, float* x,
                  float* margins);

  // Packs num_codes <= lanes codes, code[i * dim + d], as vector `out` of a panel with panel_codes
  // codes: out[d * panel_codes + i] = fp32 of (code - centre) * scale, the lanes behind them zero.
  // norm2[i] is the squared norm of that, not finite if an element is not; max_abs is at least the
  // largest magnitude of a finite element.
  void (*pack)(const double* codes, int64_t num_codes, int64_t dim, const double* centre,
               double scale, int64_t panel_codes, float* out, double* norm2, float* max_abs);
};

// Beyond this the fp32 sums of a row may overflow.
constexpr float kMostRowNorm = 0x1p60f;

extern const ScreenFp32Level kScreenFp32Baseline;
#ifdef VQGAN_FAST_HAS_SCREEN_FP32_AVX2
extern const ScreenFp32Level kScreenFp32Avx2;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_FP32_AVX512
extern const ScreenFp32Level kScreenFp32Avx512;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_FP32_NEON
extern const ScreenFp32Level kScreenFp32Neon;
#endif

}  // namespace vqgan_fast
