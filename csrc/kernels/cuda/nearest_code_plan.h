// Which way nearest_code goes on a GPU, and how it is cut into blocks: plain arithmetic on sizes
// and on what the device can do, without state, so that it is tested on the host.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/nearest_code_layout.h"
#include "kernels/cuda/tiling.h"

namespace vqgan_fast {

struct DeviceLimits {
  int64_t multiprocessors = 1;
  bool has_mma = false;    // sm_80 or newer, and code for it in this build
  bool has_wgmma = false;  // sm_90, and code for sm_90a in this build
};

enum class SearchWay {
  kExact,   // fp64 distances of all pairs: fp64 inputs, and rows of millions of columns
  kDirect,  // fp32 distances of all pairs: few pairs, and GPUs before sm_80
  kMma,     // scores by mma.sync
  kWgmma,   // scores by wgmma: sm_90, while 256 rows fit into shared memory
};

// Rows and codes of a block.
constexpr int kDirectRows = 32;
constexpr int kDirectCodes = 64;
constexpr int kMmaRows = 128;
constexpr int kWgmmaRows = 256;
constexpr int kWgmmaMaxDepth = 256;

// Rows that are searched at a time, so that scratch memory is bounded: a multiple of every row
// tile.
constexpr int64_t kChunkRows = 1 << 18;
// Below this many products, packing and five launches take longer than fp32 distances.
constexpr double kDirectProducts = 0x1p28;
// A row that stays open is scanned by the lanes that find it so, in a codebook of up to this size:
// two launches in all. That takes them a millisecond, so not where there are many rows.
constexpr int64_t kScanElements = int64_t{1} << 20;
constexpr int64_t kMaxScreenDim = 1024;  // the bound's constants
// Beyond, sums of fp32 are no limit for anything (direct_limit's divisor falls to 0 at four times
// this), and the definition itself is searched.
constexpr int64_t kMaxDirectDim = int64_t{1} << 21;

struct SearchPlan {
  SearchWay way = SearchWay::kExact;
  int depth = 0;  // columns of the images
  ClassLayout classes{kCodePanel, 1};
  int64_t chunk_rows = 0;  // at a time
  int64_t row_tiles = 0;   // of a chunk
  int64_t code_tiles = 0;
  int64_t splits = 1;           // parts of the codes, a block each
  int64_t tiles_per_split = 0;  // code tiles
  bool scan_in_finish = false;
  int64_t exact_blocks = 0;  // of the fp64 search
};

// The number of splits of `code_tiles` that ends first on `slots` blocks at a time. A block costs
// its tiles and kBlockTiles more, to start and to write its records.
inline int64_t choose_splits(int64_t row_tiles, int64_t code_tiles, int64_t slots) {
  constexpr int64_t kBlockTiles = 2;
  const int64_t most = ceil_div(2 * slots, row_tiles);
  int64_t best = 1;
  int64_t best_cost = INT64_MAX;
  for (int64_t splits = 1; splits <= most && splits <= code_tiles; ++splits) {
    const int64_t tiles = ceil_div(code_tiles, splits);
    const int64_t used = ceil_div(code_tiles, tiles);
    const int64_t cost = ceil_div(row_tiles * used, slots) * (tiles + kBlockTiles);
    if (cost < best_cost) {
      best_cost = cost;
      best = used;
    }
  }
  return best;
}

// In floating point: the product of three sizes may leave int64.
inline double products(int64_t num_rows, int64_t num_codes, int64_t dim) {
  return static_cast<double>(num_rows) * static_cast<double>(num_codes) * static_cast<double>(dim);
}

inline bool way_is_possible(SearchWay way, int64_t dim, bool fp64, const DeviceLimits& device) {
  if (way == SearchWay::kExact) return true;
  if (fp64 || dim > kMaxDirectDim) return false;
  if (way == SearchWay::kDirect) return true;
  if (dim > kMaxScreenDim || !device.has_mma) return false;
  return way == SearchWay::kMma || (device.has_wgmma && image_depth(dim) <= kWgmmaMaxDepth);
}

inline SearchWay choose_way(int64_t num_rows, int64_t num_codes, int64_t dim, bool fp64,
                            const DeviceLimits& device) {
  if (!way_is_possible(SearchWay::kDirect, dim, fp64, device)) return SearchWay::kExact;
  if (products(num_rows, num_codes, dim) <= kDirectProducts) return SearchWay::kDirect;
  for (const SearchWay way : {SearchWay::kWgmma, SearchWay::kMma}) {
    if (way_is_possible(way, dim, fp64, device)) return way;
  }
  return SearchWay::kDirect;
}

// How a search that goes `way` is cut. most_rows: at a time.
inline SearchPlan plan_search(int64_t num_rows, int64_t num_codes, int64_t dim, SearchWay way,
                              int64_t multiprocessors, int64_t most_rows = kChunkRows) {
  SearchPlan plan;
  plan.way = way;
  plan.exact_blocks = 2 * multiprocessors;
  plan.chunk_rows = num_rows < most_rows ? num_rows : most_rows;
  if (way == SearchWay::kExact) {
    plan.chunk_rows = num_rows;
    return plan;
  }
  int64_t row_tile = kDirectRows;
  int64_t slots = 3 * multiprocessors;
  if (way == SearchWay::kDirect) {
    plan.classes = ClassLayout{kDirectCodes, 4};
    plan.scan_in_finish =
        products(num_rows, num_codes, dim) <= kDirectProducts && num_codes * dim <= kScanElements;
  } else {
    plan.depth = image_depth(dim);
    // Small classes leave few codes to measure, but cost the search instructions for each of them,
    // which only long rows have to spare.
    const int small = way == SearchWay::kWgmma ? 8 : 4;
    plan.classes = ClassLayout{kCodePanel, is_split(dim) ? 2 : dim <= 128 ? 4 : small};
    row_tile = way == SearchWay::kWgmma ? kWgmmaRows : kMmaRows;
    slots = (way == SearchWay::kWgmma ? 1 : 2) * multiprocessors;
  }
  plan.row_tiles = ceil_div(plan.chunk_rows, row_tile);
  plan.code_tiles = ceil_div(num_codes, plan.classes.tile_codes);
  const int64_t splits = choose_splits(plan.row_tiles, plan.code_tiles, slots);
  plan.tiles_per_split = ceil_div(plan.code_tiles, splits);
  plan.splits = ceil_div(plan.code_tiles, plan.tiles_per_split);
  return plan;
}

// --- The fp64 search
//
// The number of its rows is known on the device alone. Row tiles that are fewer than the blocks
// have their codes split; then a merge follows.

inline constexpr int kExactRows = 64;
inline constexpr int kExactCodes = 64;

VQGAN_FAST_HOST_DEVICE inline int64_t exact_splits(int64_t num_rows, int64_t num_codes,
                                                   int64_t blocks) {
  const int64_t row_tiles = ceil_div(num_rows, kExactRows);
  const int64_t code_tiles = ceil_div(num_codes, kExactCodes);
  if (row_tiles == 0 || row_tiles >= blocks) return 1;
  const int64_t wanted = blocks / row_tiles;
  const int64_t tiles = ceil_div(code_tiles, wanted < code_tiles ? wanted : code_tiles);
  return ceil_div(code_tiles, tiles);
}

// No more partial results than this, whatever the number of rows.
inline int64_t exact_partials(int64_t blocks) { return kExactRows * blocks; }

// --- Scratch memory

// Offsets in bytes, each a multiple of 256.
struct SearchWorkspace {
  size_t facts = 0;      // CodebookFacts
  size_t centre = 0;     // dim floats
  size_t codes = 0;      // image
  size_t rows = 0;       // image of a chunk
  size_t row_facts = 0;  // RowFacts, one for each row of a chunk
  size_t records = 0;    // ClassBest, one for each split, row and class
  size_t losers = 0;     // float, one for each split and row
  size_t open = 0;       // int, rows of a chunk that fp64 is to decide: open ones, then crowded
  size_t partials = 0;   // Nearest
  size_t bytes = 0;      // of all
};

inline SearchWorkspace search_workspace(const SearchPlan& plan, int64_t dim) {
  SearchWorkspace at;
  const auto take = [&](size_t* place, int64_t bytes) {
    *place = at.bytes;
    at.bytes += static_cast<size_t>(ceil_div(bytes, 256)) * 256;
  };
  take(&at.facts, 64);
  take(&at.partials, exact_partials(plan.exact_blocks) * 16);
  if (plan.way == SearchWay::kExact) return at;
  const int64_t records = plan.splits * plan.chunk_rows;
  take(&at.records, records * class_count(plan.classes) * 8);
  take(&at.losers, records * 4);
  if (!plan.scan_in_finish) take(&at.open, plan.chunk_rows * 4);
  if (plan.way == SearchWay::kDirect) return at;
  take(&at.centre, dim * 4);
  take(&at.codes, plan.code_tiles * code_panel_bytes(plan.depth));
  const int64_t panels = kWgmmaRows / kRowPanel;  // images are whole row tiles
  take(&at.rows, ceil_div(plan.chunk_rows, kWgmmaRows) * panels * row_panel_bytes(plan.depth));
  take(&at.row_facts, plan.chunk_rows * 16);
  return at;
}

}  // namespace vqgan_fast
