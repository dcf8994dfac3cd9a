#include "kernels/cpu/vector_quantize.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/nearest_code.h"
#include "kernels/cpu/row_block.h"
#include "kernels/cpu/row_loops.h"
#include "kernels/cpu/row_tiles.h"

namespace vqgan_fast {
namespace {

// Columns in a tile of contiguous rows.
constexpr int64_t kRowTileColumns = 512;

// Writes z_q for rows that have found their codes: z[r * dim + d] and indices[r] are those of row
// first_row + r.
void store_quantized(const VectorQuantizeArgs& args, const RowLoops& loops, int64_t first_row,
                     int64_t count, const double* z, const int64_t* indices) {
  const auto straight_through = loops.straight_through[static_cast<int>(args.z_q.dtype)]
                                                      [static_cast<int>(args.codebook.dtype)];
  const bool in_place = args.z_q.element_stride == 1;
  const auto run_length = [&](int64_t row) { return rows_in_run(args.z_q, row); };
  TileBuffer codes, z_q;
  for_each_tile(first_row, first_row + count, args.dim,
                in_place ? kRowTileColumns : kFarTileColumns, run_length, [&](const Tile& tile) {
                  const int64_t first = tile.first_row - first_row;
                  const double* from = z + first * args.dim + tile.first_column;
                  gather_rows(args.codebook, indices + first, tile, codes.bytes);
                  const int64_t columns = tile.num_columns;
                  const bool packed = columns == args.dim;
                  if (in_place && packed && args.z_q.inner_stride == args.dim) {
                    return straight_through(from, codes.bytes, tile.num_rows * columns,
                                            tile_at(args.z_q, tile));
                  }
                  if (packed) {
                    straight_through(from, codes.bytes, tile.num_rows * columns, z_q.bytes);
                  } else {
                    for (int64_t r = 0; r < tile.num_rows; ++r) {
                      straight_through(from + r * args.dim,
                                       codes.bytes + r * columns * bytes_of(args.codebook.dtype),
                                       columns, z_q.bytes + r * columns * bytes_of(args.z_q.dtype));
                    }
                  }
                  write_rows(args.z_q, tile, z_q.bytes);
                });
}

}  // namespace

double vector_quantize(const VectorQuantizeArgs& args, const Parallel& parallel) {
  const DefaultFloatMode float_mode;
  std::vector<double> distances(args.num_rows);
  NearestCodeArgs search;
  search.z = args.z;
  search.codebook = args.codebook;
  search.num_rows = args.num_rows;
  search.num_codes = args.num_codes;
  search.dim = args.dim;
  search.indices = args.indices;
  search.distances = distances.data();
  search.distance_dtype = DType::kFloat64;
  const RowLoops& loops = row_loops(simd_level());
  search.take_rows = [&](int64_t first_row, int64_t count, const double* z) {
    store_quantized(args, loops, first_row, count, z, args.indices + first_row);
  };
  nearest_code(search, parallel);
  double sum = 0.0;
  for (const double distance : distances) sum += distance;
  return sum;
}

}  // namespace vqgan_fast
