#include "kernels/cpu/packed_linear.h"

#include <algorithm>

#include "kernels/cpu/aligned_memory.h"
#include "kernels/cpu/float_mode.h"

namespace vqgan_fast {
namespace {

// Rows that are copied into tiles together: many, because a panel is read again for the next ones.
constexpr int64_t kMostRows = 480;

struct Level {
  PackedLinearTask task;
  int64_t tile_rows;  // 0: it takes rows as they are
};

Level level_of(SimdLevel level) {
#ifdef VQGAN_FAST_HAS_PACKED_LINEAR_AVX512
  if (level >= SimdLevel::kAvx512) return {packed_linear_avx512, kTileRowsAvx512};
#endif
#ifdef VQGAN_FAST_HAS_PACKED_LINEAR_AVX2
  if (level >= SimdLevel::kAvx2) return {packed_linear_avx2, kTileRowsAvx2};
#endif
  static_cast<void>(level);
  return {packed_linear_baseline, 0};
}

void copy_tile(const PackedLinearArgs& args, const RowTiles& tiles, int64_t tile, float* tiled) {
  const int64_t begin = tiles.begin(tile), height = tiles.height(tile);
  const float* x = args.x + begin * args.dim;
  float* to = tiled + begin * args.dim;
  for (int64_t k = 0; k < args.dim; ++k) {
    for (int64_t r = 0; r < height; ++r) *to++ = x[r * args.dim + k];
  }
}

void all_panels(const PackedLinearArgs& args, const float* tiled, PackedLinearTask task,
                const Parallel& parallel) {
  const int64_t panels = (args.outputs + kPanel - 1) / kPanel;
  parallel.run(0, panels, 1, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    task(args, tiled, begin, end);
  });
}

PackedLinearArgs some_rows(PackedLinearArgs args, int64_t begin, int64_t rows) {
  args.x += begin * args.dim;
  args.y += begin * args.outputs;
  if (args.residual != nullptr) args.residual += begin * args.outputs;
  args.rows = rows;
  return args;
}

}  // namespace

void packed_linear(const PackedLinearArgs& args, SimdLevel simd_level, const Parallel& parallel) {
  const Level level = level_of(simd_level);
  if (args.rows <= level.tile_rows || level.tile_rows == 0) {
    if (args.rows > 0) all_panels(args, nullptr, level.task, parallel);
    return;
  }
  const auto tiled = allocate_array<float>(std::min(args.rows, kMostRows) * args.dim);
  // Parts of one size: none that would be a single row.
  const RowTiles parts(args.rows, kMostRows);
  for (int64_t part = 0; part < parts.count; ++part) {
    const auto some = some_rows(args, parts.begin(part), parts.height(part));
    const RowTiles tiles(some.rows, level.tile_rows);
    parallel.run(0, tiles.count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; ++tile) copy_tile(some, tiles, tile, tiled.get());
    });
    all_panels(some, tiled.get(), level.task, parallel);
  }
}

}  // namespace vqgan_fast
