// The inner loops of the distances, which every SIMD level writes for itself. Only plain structs
// may stand here: the linker could keep the copy of an inline function that was compiled for the
// widest level and run it everywhere.
#pragma once

#include <cstdint>

#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

struct Rows;

// Pairs of a row and a code whose definition distances are summed side by side.
constexpr int kPairsAtOnce = 16;

// Told of the distances of one row to num_codes codes, some of which may be <= limits[row]; returns
// the row's new limit. Codes behind the last one are repetitions of it.
template <class Scalar>
using KeepDistances = Scalar (*)(void* search, int64_t row, int64_t first_code, int num_codes,
                                 const Scalar* distances);

// Direct distances of a few rows to many codes, codes in lanes: panel[d * panel_codes + lane].
template <class Scalar>
struct DirectKernel {
  int panel_codes;
  int tile_rows;  // most rows in a call

  // Rows rows[d * num_rows + r], numbered from first_row, against num_panels panels, the first of
  // which begins with code first_code. distance = (z - e)^2 summed with d ascending, in fp64 each
  // step one fused multiply-add; in fp32 a square may be rounded before it is added.
  void (*run)(const Scalar* rows, int num_rows, int64_t dim, const Scalar* panels,
              int64_t num_panels, const Scalar* limits, KeepDistances<Scalar> keep, void* search,
              int64_t first_row, int64_t first_code);
};

// Most rows in a call of few_rows, and what the elements of each are filled up to a multiple of,
// with zeros.
constexpr int kFewRows = 2;
constexpr int kFewRowsStep = 8;
constexpr int kListedCodes = 8;

// What depends on the type of the codes, each of which is contiguous. Null: the level reads them as
// fp64 only.
struct CodeKernels {
  int element_bytes;
  // distances[i] = the definition's distance of z[i] and e[i], i < num_pairs. All kPairsAtOnce
  // pointers must be good to read from.
  void (*pairs)(const double* const* z, const void* const* e, int num_pairs, int64_t dim,
                double* distances);
  // Lays `count` codes, `stride` elements apart, into one panel, which the last one fills up.
  void (*pack_fp32)(const void* codes, int64_t stride, int64_t count, int64_t dim, float* panel);
  void (*pack_fp64)(const void* codes, int64_t stride, int64_t count, int64_t dim, double* panel);
  // Direct fp32 distances of rows rows[r * filled_up_dim + d], numbered from first_row, to `count`
  // codes, `stride` elements apart, the first of which is first_code. The elements of a row are
  // summed in an order of its own. Null for fp64 codes.
  void (*few_rows)(const float* rows, int num_rows, int64_t dim, const void* codes, int64_t stride,
                   int64_t count, const float* limits, KeepDistances<float> keep, void* search,
                   int64_t first_row, int64_t first_code);
  // Direct fp32 distances of such a row to kListedCodes codes, wherever they are. Null for fp64
  // codes.
  void (*listed)(const float* row, int64_t dim, const void* const* codes, float* distances);
};

struct CodeDistanceKernels {
  DirectKernel<float> fp32;
  DirectKernel<double> fp64;
  CodeKernels from_fp32;
  CodeKernels from_fp64;
  CodeKernels from_bf16;
  CodeKernels from_fp16;
};

extern const CodeDistanceKernels kCodeDistancesBaseline;
#ifdef VQGAN_FAST_HAS_CODE_DISTANCES_AVX2
extern const CodeDistanceKernels kCodeDistancesAvx2;
#endif
#ifdef VQGAN_FAST_HAS_CODE_DISTANCES_AVX512
extern const CodeDistanceKernels kCodeDistancesAvx512;
#endif

// The highest level that is compiled in and not above `level`.
const CodeDistanceKernels& code_distance_kernels(SimdLevel level);

// Those that read these codes where they lie, or null: load_rows must make doubles of them first.
const CodeKernels* in_place_kernels(const CodeDistanceKernels& kernels, const Rows& codebook);

}  // namespace vqgan_fast
