// The inner loops of the int16 screen, which every SIMD level writes for itself, and what they
// share: plain structs only, because an inline function or a template here could be kept by the
// linker as it was compiled for the widest level, and run everywhere.
#pragma once

#include <cstdint>

namespace vqgan_fast {

// A score carries in its lowest bits which of the codes of its lane it belongs to: they are below
// the error of quantising, and no vector of indices has to be kept beside the scores.
constexpr int32_t kInt16TagBits = 9;
constexpr int32_t kInt16TagMask = (1 << kInt16TagBits) - 1;

// A row's bias keeps its scores from kInt16LeastScore to kInt16MostScore: bits of fp32 numbers that
// are positive, normal and finite, and in the same order. Some CPUs find the smaller of two fp32
// numbers twice as fast as of two integers.
constexpr int32_t kInt16LeastScore = 0x00800000;
constexpr int32_t kInt16MostScore = 0x7f7fffff;

// What a level has instructions for.
enum class Int16Layout {
  // Pairs, with a zero behind an odd number: of a panel of vectors * lanes codes,
  // codes[(i * vectors * lanes + k) * 2 + j] is element 2 i + j of code k, as rows[2 i + j] of a
  // row.
  kPairs,
  // An element is 256 times a high byte plus a low one, both signed. What two low bytes multiply to
  // is left out, and scores count units of 256. Where bytes lie is the level's own matter.
  kBytes,
};

// Some rows, their elements negated, against some panels of codes.
struct Int16Tile {
  const int16_t* rows;  // row_stride elements apart
  int64_t row_stride;
  const int32_t* shifts;  // for each row, the power of two that divides the norms
  const int32_t* biases;  // for each row
  bool same_shift;        // of all rows, and the same bias
  int num_rows;           // at most tile_rows
  const int16_t* codes;
  const int32_t* norms;  // of each code, its squared norm in units of the scores
  int64_t dim;
  int64_t num_panels;
  int32_t first_tag;  // of vector 0 of the first panel; the tags of what follows count up
  // For each row, the smallest score of each lane so far, and the smallest one beside it: [row][2]
  // [lanes].
  int32_t* state;
  // For `mark`: of each row, the limit, and a bit for each code, marks_stride vectors from row to
  // row.
  const int32_t* limits;
  uint16_t* marks;
  int64_t marks_stride;
};

// What the layout of bytes needs beside.
struct Int16ByteKernels {
  // Around calls of `screen` for vectors of so many elements, on the thread that makes them.
  void (*begin)(int64_t dim);
  void (*end)();

  // As many int16s as a code of a panel takes.
  int64_t (*code_elements)(int64_t dim);

  // The largest |x - centre| of any element.
  double (*largest)(const double* x, const double* centre, int64_t dim);

  // Put what was quantised where row r of `rows`, or code k of a panel, belongs. Return the sum of
  // the squared low bytes.
  double (*place_row)(const int16_t* q, int64_t dim, int16_t* rows, int64_t r);
  double (*place_code)(const int16_t* q, int64_t dim, int16_t* panel, int64_t k);
};

struct ScreenInt16Kernels {
  int vectors;    // in a panel
  int lanes;      // in a vector
  int tile_rows;  // most rows in a tile

  // Brings the scores (norms[k] >> shift) + bias + sum of rows[i] * codes[k][i] into state, the
  // lowest kInt16TagBits bits of each replaced by its tag.
  void (*screen)(const Int16Tile& tile);

  // Marks the codes whose score, without a tag, is within the row's limit. For vectors shorter than
  // least_dim_to_mark, searching rows anew that have many such codes is as fast.
  void (*mark)(const Int16Tile& tile);
  int64_t least_dim_to_mark;

  // The smallest of `lanes` numbers.
  int32_t (*smallest)(const int32_t* lanes);

  // Bit i: lanes[i] <= limit.
  uint32_t (*within)(const int32_t* lanes, int32_t limit);

  // sum of (x - centre)^2, in any order.
  double (*norm2)(const double* x, const double* centre, int64_t dim);

  // q = (x - centre) * scale, rounded to integers, all of which must fit; returns the sum of the
  // squared differences of q and what was rounded, in any order.
  double (*quantise)(const double* x, const double* centre, double scale, int64_t dim, int16_t* q);

  Int16ByteKernels bytes;  // null in the layout of pairs

  Int16Layout layout = Int16Layout::kPairs;
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
#ifdef VQGAN_FAST_HAS_SCREEN_INT16_AMX
extern const ScreenInt16Kernels kScreenInt16Amx;       // pairs
extern const ScreenInt16Kernels kScreenInt16AmxTiles;  // bytes
#endif

}  // namespace vqgan_fast
