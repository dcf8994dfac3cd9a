// From records to results. Eight lanes look after a row: they find the smallest score, the limit
// that its error sets, and measure by the definition every code of the classes within it. Where a
// class gave up a score within the limit, the row stays open: it is listed for the fp64 search, or
// scanned on the spot.
#include <cstdint>

#include "kernels/cuda/class_records.cuh"
#include "kernels/cuda/definition.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/nearest_code_bound.h"
#include "kernels/cuda/nearest_code_stages.cuh"

namespace vqgan_fast {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kLanes = 8;  // of a row
constexpr int kRows = kThreads / kLanes;
constexpr int64_t kNoEntry = int64_t{1} << 62;

// A score and the place of the class that has it.
struct Entry {
  float score;
  int64_t place;
};

__device__ float lanes_min(float value) {
  for (int step = kLanes / 2; step > 0; step /= 2) {
    value = fminf(value, __shfl_xor_sync(kAllLanes, value, step));
  }
  return value;
}

// Upwards, so that the limit is one still.
__device__ float round_up(double value) {
  const float nearest = static_cast<float>(value);
  return nearest < value ? float_of_bits(bits_of_float(nearest) + 1) : nearest;  // value > 0
}

// Limit for the scores of a row of which the smallest is `smallest`.
__device__ float score_limit(const SearchArgs& args, const RowFacts& row, float smallest) {
  if (args.plan.way == SearchWay::kDirect) return round_up(direct_limit(smallest, args.dim));
  const CodebookFacts& facts = *args.facts;
  const ImageError codes{sqrtf(float_of_bits(facts.norm2)), sqrtf(float_of_bits(facts.residual2)),
                         sqrtf(float_of_bits(facts.low2))};
  const ImageError x{row.norm, row.residual, row.low};
  return smallest + screen_margin(x, row.scale, codes, args.dim, args.plan.depth);
}

// Measures codes of the classes at `place` (a multiple of classes beyond the row's first record).
struct Measure {
  const SearchArgs& args;
  int64_t z_offset;
  bool fours;
  int lane;
  Nearest best;

  __device__ void code(int64_t code) {
    if (code >= args.num_codes) return;
    const double distance = squared_distance(args.z, z_offset, args.codebook,
                                             row_offset(args.codebook, code), args.dim, fours);
    if (distance == distance) best = nearer(best, Nearest{distance, code});
  }

  __device__ void classes(const ClassBest* records, int64_t first, int64_t second) {
    const ClassLayout& layout = args.plan.classes;
    const int size = class_size(layout);
    const int64_t entry = lane < size ? first : second;
    const int64_t stride = args.plan.chunk_rows * class_count(layout);
    const int64_t split = entry / class_count(layout);
    const int class_index = static_cast<int>(entry % class_count(layout));
    const int tile = records[split * stride + class_index].tile;
    for (int i = lane % size; i < size; i += kLanes) {
      code(class_code(layout, tile, class_index, i));
    }
  }
};

__global__ void __launch_bounds__(kThreads) finish_kernel(SearchArgs args, bool fours) {
  const int lane = threadIdx.x % kLanes;
  const int first_lane = threadIdx.x % kWarp / kLanes * kLanes;  // of the row, in the warp
  const int64_t slot = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / kLanes;
  const bool inside = slot < args.num_rows;
  const int64_t chunk_row = inside ? slot : args.num_rows - 1;
  const int64_t row = args.first_row + chunk_row;
  const int classes = class_count(args.plan.classes);
  const int64_t stride = args.plan.chunk_rows * classes;
  const int64_t entries = args.plan.splits * classes;
  const ClassBest* records = args.records + chunk_row * classes;
  const bool direct = args.plan.way == SearchWay::kDirect;
  const RowFacts facts = direct ? RowFacts{1.0f, 0.0f, 0.0f, 0.0f} : args.row_facts[chunk_row];

  const auto score_of = [&](int64_t e) {  // entries are few: a division of 32 bits is quicker
    const uint32_t split = static_cast<uint32_t>(e) / static_cast<uint32_t>(classes);
    return records[split * stride + (e - static_cast<int64_t>(split) * classes)].score;
  };

  Entry smallest{float_of_bits(0x7f800000u), kNoEntry};
  for (int64_t e = lane; e < entries; e += kLanes) {
    const float score = score_of(e);
    if (score < smallest.score) smallest = Entry{score, e};
  }
  const float best_score = lanes_min(smallest.score);
  float loser = float_of_bits(0x7f800000u);
  for (int64_t split = lane; split < args.plan.splits; split += kLanes) {
    loser = fminf(loser, args.losers[split * args.plan.chunk_rows + chunk_row]);
  }
  loser = lanes_min(loser);

  const bool blind =
      !direct && (facts.scale < 0.0f || args.facts->overflow != 0 || args.facts->any_finite == 0);
  const bool searched = !blind && is_finite(best_score) && facts.scale != 0.0f;
  const float limit = searched ? score_limit(args, facts, best_score) : 0.0f;
  const bool open = facts.scale != 0.0f && (!searched || (args.exact && !(loser > limit)));

  // One lane of those that hold the smallest score is enough for "fast".
  const unsigned holders =
      __ballot_sync(kAllLanes, smallest.score == best_score) >> first_lane & 0xffu;
  const bool chosen = lane == __ffs(static_cast<int>(holders)) - 1;

  Measure measure{args, row_offset(args.z, row), fours, lane, Nearest{0.0, -1}};
  for (int64_t first = 0; first < entries; first += kLanes) {
    const int64_t e = first + lane;
    bool candidate = false;
    if (searched && !open && e < entries) {
      candidate = args.exact ? score_of(e) <= limit : chosen && e == smallest.place;
    }
    unsigned mask = __ballot_sync(kAllLanes, candidate) >> first_lane & 0xffu;
    while (mask != 0) {
      // Classes of four codes go in pairs.
      const int a = __ffs(static_cast<int>(mask)) - 1;
      mask &= mask - 1;
      int b = a;
      if (class_size(args.plan.classes) < kLanes && mask != 0) {
        b = __ffs(static_cast<int>(mask)) - 1;
        mask &= mask - 1;
      }
      measure.classes(records, first + a, first + b);
    }
  }
  const bool scan = open && inside && args.open == nullptr;
  for (int64_t code = lane; scan && code < args.num_codes; code += kLanes) measure.code(code);
  __syncwarp();

  Nearest best = measure.best;
  for (int step = kLanes / 2; step > 0; step /= 2) {
    const double distance = __shfl_xor_sync(kAllLanes, best.distance, step);
    const long long code = __shfl_xor_sync(kAllLanes, static_cast<long long>(best.code), step);
    best = nearer(best, Nearest{distance, code});
  }
  if (lane != 0 || !inside) return;
  if (open && args.open != nullptr) {
    args.open[atomicAdd(&args.facts->open_rows, 1)] = static_cast<int>(chunk_row);
    return;
  }
  if (best.code < 0 || (!is_finite(best.distance) && !row_is_finite(args.z, row, args.dim))) {
    best = Nearest{static_cast<double>(float_of_bits(0x7fc00000u)), 0};
  }
  args.indices[row] = best.code;
  store_element(args.distances, args.distance_dtype, row, best.distance);
}

}  // namespace

cudaError_t finish_search(const SearchArgs& args, cudaStream_t stream) {
  const bool fours = fours_allowed(args.z) && fours_allowed(args.codebook);
  return launch(finish_kernel, ceil_div(args.num_rows, kRows), 1, kThreads, stream, args, fours);
}

}  // namespace cuda
}  // namespace vqgan_fast
