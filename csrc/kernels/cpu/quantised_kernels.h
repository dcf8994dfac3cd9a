// The inner loops of the int16 and int8 screens, which every SIMD level writes for itself, and what
// they share: plain structs only, because an inline function or a template here could be kept by
// the linker as it was compiled for the widest level, and run everywhere.
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

// How quantised elements lie in arrays of int16s: what a level has instructions for.
enum class QuantisedLayout {
  // int16: pairs, with a zero behind an odd number. Of a panel of vectors * lanes codes,
  // codes[(i * vectors * lanes + k) * 2 + j] is element 2 i + j of code k, as rows[2 i + j] of a
  // row.
  kPairs,
  // int16: an element is 256 times a high byte plus a low one, both signed. What two low bytes
  // multiply to is left out, and scores count units of 256. Where bytes lie is the level's own
  // matter.
  kBytes,
  // int8: quads of bytes, zeros behind them, laid as pairs are. Those of codes are unsigned, 128
  // more than the element, which moves all scores of a row alike.
  kQuads,
};

// Some rows, their elements negated, against some panels of codes.
struct QuantisedTile {
  const int16_t* rows;  // row_stride elements apart
  int64_t row_stride;
  const int32_t* shifts;  // for each row, the power of two that divides the norms
  const int32_t* biases;  // for each row; not for quads
  bool same_shift;        // of all rows, and so the same bias
  int num_rows;           // at most tile_rows
  const int16_t* codes;
  const int32_t* norms;  // of each code, its squared norm in units of the scores
  int64_t dim;
  int64_t num_panels;
  int32_t first_tag;  // of vector 0 of the first panel; the tags of what follows count up
  // For `screen`: for each row, the smallest score of each lane so far, and the smallest one beside
  // it: [row][2][lanes].
  int32_t* state;
  // For `mark`: of each row, the limit, and a bit for each code, marks_stride vectors from row to
  // row.
  const int32_t* limits;
  uint16_t* marks;
  int64_t marks_stride;
  // In int8 besides: of each row and kMinimaVectors vectors, as their tags count them, the smallest
  // score of each lane so far, minima_stride numbers from row to row.
  int32_t* minima;
  int64_t minima_stride;
};

constexpr int kMinimaVectors = 16;
// So many vectors can be marked at a time.
constexpr int kMarkedVectors = 64;

// A code that int8 marked.
struct MarkedCode {
  int32_t code;
  int32_t score;  // its own, or less: the smallest of its lane in kMinimaVectors vectors
};

// What layouts of bytes need beside.
struct ByteKernels {
  // Around calls of `screen` or `mark` for vectors of so many elements, on the thread that makes
  // them; null where there is nothing to do.
  void (*begin)(int64_t dim);
  void (*end)();

  // As many int16s as a row takes, and a code of a panel.
  int64_t (*row_elements)(int64_t dim);
  int64_t (*code_elements)(int64_t dim);

  // The largest |x - centre| of any element.
  double (*largest)(const double* x, const double* centre, int64_t dim);

  // Put what was quantised where row r of `rows`, or code k of a panel, belongs. Return the sum of
  // the squares of what products leave out: of low bytes.
  double (*place_row)(const int16_t* q, int64_t dim, int16_t* rows, int64_t r);
  double (*place_code)(const int16_t* q, int64_t dim, int16_t* panel, int64_t k);
};

struct QuantisedKernels {
  int vectors;    // in a panel
  int lanes;      // in a vector
  int tile_rows;  // most rows in a tile

  // A score is (norms[k] >> shift) + bias + sum of rows[i] * codes[k][i], in int8 without a bias.

  // int16: brings the scores into state, the lowest kInt16TagBits bits of each replaced by its tag.
  void (*screen)(const QuantisedTile& tile);

  // Marks the codes whose score, without a tag, is within the row's limit, and in int8 writes the
  // minima. For int16 vectors shorter than least_dim_to_mark, searching rows anew that have many
  // such codes is as fast.
  void (*mark)(const QuantisedTile& tile);
  int64_t least_dim_to_mark;

  // int8: lowers the limit to the smallest of the minima plus the margin, and lists the codes of
  // kMarkedVectors marks, the first of which is first_code. Returns where the list ends.
  MarkedCode* (*collect)(const int32_t* minima, const uint16_t* marks, int32_t first_code,
                         int64_t margin, int32_t* limit, MarkedCode* list);

  // The smallest of `lanes` numbers.
  int32_t (*smallest)(const int32_t* lanes);

  // Bit i: lanes[i] <= limit.
  uint32_t (*within)(const int32_t* lanes, int32_t limit);

  // sum of (x - centre)^2, in any order.
  double (*norm2)(const double* x, const double* centre, int64_t dim);

  // q = (x - centre) * scale, rounded to integers, all of which must fit; returns the sum of the
  // squared differences of q and what was rounded, in any order.
  double (*quantise)(const double* x, const double* centre, double scale, int64_t dim, int16_t* q);

  ByteKernels bytes;  // null in the layout of pairs

  QuantisedLayout layout = QuantisedLayout::kPairs;
};

extern const QuantisedKernels kScreenInt16Baseline;
extern const QuantisedKernels kScreenInt8Baseline;
#ifdef VQGAN_FAST_HAS_SCREEN_INT16_AVX2
extern const QuantisedKernels kScreenInt16Avx2;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_INT16_AVXVNNI
extern const QuantisedKernels kScreenInt16AvxVnni;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_INT16_AVX512
extern const QuantisedKernels kScreenInt16Avx512;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_INT16_AVX512VNNI
extern const QuantisedKernels kScreenInt16Avx512Vnni;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_INT16_AMX
extern const QuantisedKernels kScreenInt16Amx;       // pairs
extern const QuantisedKernels kScreenInt16AmxTiles;  // bytes
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_INT8_NEONDOT
extern const QuantisedKernels kScreenInt8NeonDot;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_INT8_AVXVNNI
extern const QuantisedKernels kScreenInt8AvxVnni;
#endif
#ifdef VQGAN_FAST_HAS_SCREEN_INT8_AVX512VNNI
extern const QuantisedKernels kScreenInt8Avx512Vnni;
#endif

}  // namespace vqgan_fast
