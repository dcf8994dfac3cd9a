// A linear layer on packed weights (vqgan_fast/ops/packed_weight.py). Every output is the same bits
// at every SIMD level, number of rows and thread count:
//
//   chain[s] = fma over k in segment s, ascending, from 0          segments of kSegment inputs
//   total    = chain[0] + chain[1] + ..., in this order
//   y        = activation(total * scale + bias) + residual         each step rounded, if it is
//   there
#pragma once

#include <cstdint>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

constexpr int kPanel = 32;    // outputs side by side
constexpr int kSegment = 64;  // inputs of one chain

enum class WeightType { kFloat32, kBFloat16, kInt8 };

struct PackedLinearArgs {
  const float* x = nullptr;  // (rows, dim)
  int64_t rows = 0;
  int64_t dim = 0;
  const void* weight = nullptr;  // (panels, dim, kPanel)
  WeightType type = WeightType::kFloat32;
  const float* scales = nullptr;  // (outputs,) with int8
  const float* bias = nullptr;    // (outputs,) or null
  int64_t outputs = 0;
  bool gelu = false;
  const float* residual = nullptr;  // (rows, outputs) or null; may be y
  float* y = nullptr;               // (rows, outputs)
};

// Rows in tiles of at most `most` rows, whose heights differ by one at most.
struct RowTiles {
  int64_t rows;
  int64_t count;

  RowTiles(int64_t num_rows, int64_t most) : rows(num_rows), count((num_rows + most - 1) / most) {}
  int64_t begin(int64_t tile) const { return rows * tile / count; }
  int64_t height(int64_t tile) const { return begin(tile + 1) - begin(tile); }
};

// Rows of a tile at each SIMD level: 12 and 24 sums of two vectors fill its registers.
constexpr int kTileRowsAvx2 = 6;
constexpr int kTileRowsAvx512 = 12;

// The outputs of panels [panel_begin, panel_end), all rows. `tiled` is x as tiles read it where
// there are more rows than one tile has, else null: of each tile the inputs in order, of an input
// the tile's rows.
using PackedLinearTask = void (*)(const PackedLinearArgs& args, const float* tiled,
                                  int64_t panel_begin, int64_t panel_end);

void packed_linear_baseline(const PackedLinearArgs&, const float*, int64_t, int64_t);
#ifdef VQGAN_FAST_HAS_PACKED_LINEAR_AVX2
void packed_linear_avx2(const PackedLinearArgs&, const float*, int64_t, int64_t);
#endif
#ifdef VQGAN_FAST_HAS_PACKED_LINEAR_AVX512
void packed_linear_avx512(const PackedLinearArgs&, const float*, int64_t, int64_t);
#endif

void packed_linear(const PackedLinearArgs& args, SimdLevel level, const Parallel& parallel);

}  // namespace vqgan_fast
