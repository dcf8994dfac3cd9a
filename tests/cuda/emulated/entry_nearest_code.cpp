// nearest_code and its steps, for tests/cuda/test_nearest_code_*.py.
#include <cstdint>
#include <cstring>

#include "entry.h"
#include "kernels/cuda/nearest_code.cuh"
#include "kernels/cuda/nearest_code_bound.h"
#include "kernels/cuda/nearest_code_layout.h"
#include "kernels/cuda/nearest_code_plan.h"
#include "kernels/cuda/nearest_code_stages.cuh"

using namespace vqgan_fast;

namespace {

DeviceLimits limits_of(int capability, int64_t multiprocessors) {
  return DeviceLimits{multiprocessors, capability >= 80, capability == 90};
}

}  // namespace

extern "C" {

void set_capability(int capability) { emulated::capability = capability; }

// way: as SearchWay, -1 for the plan's. chunk_rows: 0 for as many as ever.
int nearest_code(const Rows* z, const Rows* codebook, int64_t num_rows, int64_t num_codes,
                 int64_t dim, int64_t exact, int64_t way, int64_t chunk_rows, int64_t* indices,
                 void* distances, int64_t distance_dtype) {
  cuda::NearestCodeArgs args;
  args.z = *z;
  args.codebook = *codebook;
  args.num_rows = num_rows;
  args.num_codes = num_codes;
  args.dim = dim;
  args.exact = exact != 0;
  if (way >= 0) args.way = static_cast<SearchWay>(way);
  if (chunk_rows > 0) args.chunk_rows = chunk_rows;
  args.indices = indices;
  args.distances = distances;
  args.distance_dtype = static_cast<DType>(distance_dtype);
  size_t bytes = 0;
  const cudaError_t error = cuda::nearest_code_workspace_bytes(args, &bytes);
  if (error != cudaSuccess) return error;
  Workspace workspace(bytes);
  args.workspace = workspace.data();
  return cuda::nearest_code(args, nullptr);
}

int64_t choose_way(int64_t num_rows, int64_t num_codes, int64_t dim, int64_t fp64,
                   int64_t capability, int64_t multiprocessors) {
  return static_cast<int64_t>(vqgan_fast::choose_way(num_rows, num_codes, dim, fp64 != 0,
                                                     limits_of(capability, multiprocessors)));
}

// out: depth, tile codes, groups, chunk rows, row tiles, code tiles, splits, tiles per split,
// scan_in_finish, exact blocks, bytes of scratch memory
void plan_search(int64_t num_rows, int64_t num_codes, int64_t dim, int64_t way,
                 int64_t multiprocessors, int64_t* out) {
  const SearchPlan plan = vqgan_fast::plan_search(num_rows, num_codes, dim,
                                                  static_cast<SearchWay>(way), multiprocessors);
  const int64_t values[] = {plan.depth,
                            plan.classes.tile_codes,
                            plan.classes.groups,
                            plan.chunk_rows,
                            plan.row_tiles,
                            plan.code_tiles,
                            plan.splits,
                            plan.tiles_per_split,
                            plan.scan_in_finish,
                            plan.exact_blocks,
                            static_cast<int64_t>(search_workspace(plan, dim).bytes)};
  std::memcpy(out, values, sizeof values);
}

int64_t exact_splits(int64_t num_rows, int64_t num_codes, int64_t blocks) {
  return vqgan_fast::exact_splits(num_rows, num_codes, blocks);
}
int64_t exact_partials(int64_t blocks) { return vqgan_fast::exact_partials(blocks); }

int64_t class_code(int64_t tile_codes, int64_t groups, int64_t tile, int64_t class_index,
                   int64_t i) {
  const ClassLayout layout{static_cast<int>(tile_codes), static_cast<int>(groups)};
  return vqgan_fast::class_code(layout, tile, static_cast<int>(class_index), static_cast<int>(i));
}

// Packs, searches by mma.sync or wgmma, and hands out what the steps leave: the images, facts, and
// records of all splits (one chunk). margins: screen_margin of each row.
int screen(const Rows* z, const Rows* codebook, int64_t num_rows, int64_t num_codes, int64_t dim,
           int64_t way, float* row_facts, float* code_facts, float* margins, float* scores,
           int32_t* tiles, float* losers, uint8_t* row_image, uint8_t* code_image, float* centre) {
  cuda::SearchArgs args;
  args.z = *z;
  args.codebook = *codebook;
  args.num_rows = num_rows;
  args.num_codes = num_codes;
  args.dim = dim;
  args.blocks = emulated::multiprocessors;
  args.plan = vqgan_fast::plan_search(num_rows, num_codes, dim, static_cast<SearchWay>(way),
                                      emulated::multiprocessors);
  const SearchWorkspace at = search_workspace(args.plan, dim);
  Workspace workspace(at.bytes);
  unsigned char* memory = static_cast<unsigned char*>(workspace.data());
  args.facts = reinterpret_cast<cuda::CodebookFacts*>(memory + at.facts);
  args.centre = reinterpret_cast<float*>(memory + at.centre);
  args.code_image = memory + at.codes;
  args.row_image = memory + at.rows;
  args.row_facts = reinterpret_cast<cuda::RowFacts*>(memory + at.row_facts);
  args.records = reinterpret_cast<ClassBest*>(memory + at.records);
  args.losers = reinterpret_cast<float*>(memory + at.losers);
  cudaError_t error = cuda::pack_images(args, true, nullptr);
  if (error != cudaSuccess) return error;
  error = args.plan.way == SearchWay::kWgmma ? cuda::search_wgmma(args, nullptr)
                                             : cuda::search_mma(args, nullptr);
  if (error != cudaSuccess) return error;

  const auto value = [](unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  };
  const ImageError codes{sqrtf(value(args.facts->norm2)), sqrtf(value(args.facts->residual2)),
                         sqrtf(value(args.facts->low2))};
  std::memcpy(code_facts, &codes, sizeof codes);
  code_facts[3] = value(args.facts->largest);
  std::memcpy(centre, args.centre, static_cast<size_t>(dim) * 4);
  const int classes = class_count(args.plan.classes);
  for (int64_t n = 0; n < num_rows; ++n) {
    const cuda::RowFacts& row = args.row_facts[n];
    std::memcpy(row_facts + 4 * n, &row, sizeof row);
    margins[n] =
        screen_margin({row.norm, row.residual, row.low}, row.scale, codes, dim, args.plan.depth);
  }
  for (int64_t i = 0; i < args.plan.splits * num_rows * classes; ++i) {
    scores[i] = args.records[i].score;
    tiles[i] = args.records[i].tile;
  }
  std::memcpy(losers, args.losers, static_cast<size_t>(args.plan.splits * num_rows) * 4);
  const int64_t row_panels = ceil_div(num_rows, kRowPanel);
  std::memcpy(row_image, args.row_image, row_panels * row_panel_bytes(args.plan.depth));
  std::memcpy(code_image, args.code_image,
              args.plan.code_tiles * code_panel_bytes(args.plan.depth));
  return cudaSuccess;
}

}  // extern "C"
