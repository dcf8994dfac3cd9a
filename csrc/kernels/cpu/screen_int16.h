// The inner loops of the int16 screen, which every SIMD level writes for itself, and what they
// share: plain structs only, because an inline function or a template here could be kept by the
// linker as it was compiled for the widest level, and run everywhere.
#pragma once

#include <cstdint>

namespace vqgan_fast {

// A score carries in its lowest bits which of the codes of its lane it belongs to: they are far
// below the error of quantising, and no vector of indices has to be kept beside the scores.
constexpr int32_t kInt16TagBits = 9;
constexpr int32_t kInt16TagMask = (1 << kInt16TagBits) - 1;

// Some rows against some panels. A panel is vectors * lanes codes: codes[(i * vectors * lanes + k)
// * 2 + j] is element 2 i + j of code k, norms[k] its squared norm. A row is num_pairs pairs too,
// its elements negated.
struct Int16Tile {
  const int16_t* rows;  // row_stride elements apart
  int64_t row_stride;
  const int32_t* shifts;  // for each row, the power of two that divides the norms
  int num_rows;           // at most tile_rows
  const int16_t* codes;
  const int32_t* norms;
  int64_t num_pairs;
  int64_t num_panels;
  int32_t first_tag;  // of vector 0 of the first panel; the tags of what follows count up
  // For each row, the smallest score of each lane so far, and the smallest one beside it: [row][2]
  // [lanes].
  int32_t* state;
};

struct ScreenInt16Kernels {
  int vectors;    // in a panel
  int lanes;      // in a vector
  int tile_rows;  // most rows in a tile

  // Brings the scores (norms[k] >> shift) + sum of rows[i] * codes[k][i] into state, the lowest
  // kInt16TagBits bits of each replaced by its tag.
  void (*screen)(const Int16Tile& tile);

  // The smallest of `lanes` numbers.
  int32_t (*smallest)(const int32_t* lanes);

  // Bit i: lanes[i] <= limit.
  uint32_t (*within)(const int32_t* lanes, int32_t limit);

  // sum of (x - centre)^2, in any order.
  double (*norm2)(const double* x, const double* centre, int64_t dim);

  // q = (x - centre) * scale, rounded to integers, all of which must fit; returns the sum of the
  // squared differences of q and what was rounded, in any order.
  double (*quantise)(const double* x, const double* centre, double scale, int64_t dim, int16_t* q);
};

extern const ScreenInt16Kernels kScreenInt16Baseline;
#ifdef VQGAN_FAST_HAS_SCREEN_INT16_AVX2
extern const ScreenInt16Kernels kScreenInt16Avx2;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_INT16_AVX512
extern const ScreenInt16Kernels kScreenInt16Avx512;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_INT16_AVX512VNNI
extern const ScreenInt16Kernels kScreenInt16Avx512Vnni;
#endif

}  // namespace vqgan_fast
