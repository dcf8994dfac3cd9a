// From records to results. Eight lanes look after a row, or a warp where rows are few: they find
// the smallest score, the limit that its error sets, and measure by the definition every code of
// the classes within it. Where a class gave up a score within the limit, the row stays open: it is
// listed for nearest_code_exact.cu, or scanned on the spot.
#include <cstdint>

#include "kernels/cuda/class_records.cuh"
#include "kernels/cuda/definition.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/nearest_code_bound.h"
#include "kernels/cuda/nearest_code_classes.cuh"
#include "kernels/cuda/nearest_code_stages.cuh"

namespace vqgan_fast {
namespace cuda {
namespace {

constexpr int kWarp = 32;
constexpr int64_t kNoEntry = int64_t{1} << 62;
// Up to this many rows for each multiprocessor, a row has a warp, and a block few of them: there
// are multiprocessors enough, and time is what one row takes.
constexpr int64_t kRowsOfWarps = 8;

// kLanes: of a row.
template <int kLanes>
constexpr int kThreads = kLanes == kWarp ? 64 : 128;
template <int kLanes>
constexpr int kRows = kThreads<kLanes> / kLanes;
template <int kLanes>
constexpr int kBlocks = kLanes == kWarp ? 1 : 4;  // on a multiprocessor: 128 registers a thread

// A score and the place of the class that has it.
struct Entry {
  float score;
  int64_t place;
};

// Of which lanes of the own row it holds, a bit each.
template <int kLanes>
__device__ unsigned lanes_where(bool holds) {
  const unsigned all = __ballot_sync(kAllLanes, holds);
  if (kLanes == kWarp) return all;
  return all >> (threadIdx.x % kWarp / kLanes * kLanes) & ((1u << (kLanes % kWarp)) - 1);
}

template <int kLanes>
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

// Measures the codes of classes.
template <int kLanes>
struct Measure {
  // What is on its way takes registers, which many warps have few of.
  static constexpr int kFours = kLanes == kWarp ? 8 : 4;

  const SearchArgs& args;
  int64_t z_offset;
  bool fours;
  int lane;
  Nearest best;

  __device__ void code(int64_t code) {
    if (code >= args.num_codes) return;
    const double distance = squared_distance<kFours>(
        args.z, z_offset, args.codebook, row_offset(args.codebook, code), args.dim, fours);
    if (distance == distance) best = nearer(best, Nearest{distance, code});
  }

  // Bit i of `mask`: the class of entry first + i, in the tile that has its smallest score, or in
  // all tiles of its split. As many classes at a time as the lanes have room for.
  __device__ void classes(int64_t chunk_row, int64_t first, unsigned mask, bool all_tiles) {
    const int size = class_size(args.plan.classes);
    const int lanes = size < kLanes ? size : kLanes;  // of a class
    while (mask != 0) {
      int entry = -1;
      for (int i = 0; i < kLanes / lanes && mask != 0; ++i, mask &= mask - 1) {
        if (lane / lanes == i) entry = __ffs(static_cast<int>(mask)) - 1;
      }
      if (entry < 0) continue;
      const ClassPlace place = class_place(args.plan, first + entry);
      const auto tiles = static_cast<int>(args.plan.tiles_per_split);
      const int first_tile = all_tiles ? 0
                                       : record_of(args, chunk_row, place).tile -
                                             static_cast<int>(place.split) * tiles;
      const int end = (all_tiles ? tiles : first_tile + 1) * size;
      for (int i = first_tile * size + lane % lanes; i < end; i += lanes) {
        code(code_of_class(args.plan, place, i));
      }
    }
  }
};

template <int kLanes>
__global__ void __launch_bounds__(kThreads<kLanes>, kBlocks<kLanes>)
    finish_kernel(SearchArgs args, bool fours) {
  const int lane = threadIdx.x % kLanes;
  const int64_t slot = static_cast<int64_t>(blockIdx.x) * kRows<kLanes> + threadIdx.x / kLanes;
  const bool inside = slot < args.num_rows;
  const int64_t chunk_row = inside ? slot : args.num_rows - 1;
  const int64_t row = args.first_row + chunk_row;
  const int64_t entries = args.plan.splits * class_count(args.plan.classes);
  const bool direct = args.plan.way == SearchWay::kDirect;
  const RowFacts facts = direct ? RowFacts{1.0f, 0.0f, 0.0f, 0.0f} : args.row_facts[chunk_row];

  const auto score_of = [&](int64_t e) { return record_of(args, chunk_row, e).score; };
  Entry smallest{float_of_bits(0x7f800000u), kNoEntry};
  for (int64_t e = lane; e < entries; e += kLanes) {
    const float score = score_of(e);
    if (score < smallest.score) smallest = Entry{score, e};
  }
  const float best_score = lanes_min<kLanes>(smallest.score);
  float loser = float_of_bits(0x7f800000u);
  // A row that is looked after twice may write its limit here meanwhile.
  for (int64_t split = lane; inside && split < args.plan.splits; split += kLanes) {
    loser = fminf(loser, args.losers[split * args.plan.chunk_rows + chunk_row]);
  }
  loser = lanes_min<kLanes>(loser);

  const bool blind =
      !direct && (facts.scale < 0.0f || args.facts->overflow != 0 || args.facts->any_finite == 0);
  const bool searched = !blind && is_finite(best_score) && facts.scale != 0.0f;
  const float limit = searched ? score_limit(args, facts, best_score) : 0.0f;
  const bool open = facts.scale != 0.0f && (!searched || (args.exact && !(loser > limit)));

  // One lane of those that hold the smallest score is enough for "fast".
  const unsigned holders = lanes_where<kLanes>(smallest.score == best_score);
  const bool chosen = lane == __ffs(static_cast<int>(holders)) - 1;

  // Of many entries at a time, so that the rows of a warp measure together.
  Measure<kLanes> measure{args, row_offset(args.z, row), fours, lane, Nearest{0.0, -1}};
  const bool listed = open && args.open != nullptr;
  int count = 0;  // of the classes within the limit
  for (int64_t first = 0; first < entries; first += kWarp) {
    unsigned mask = 0;
#pragma unroll
    for (int i = 0; i < kWarp; i += kLanes) {
      const int64_t e = first + i + lane;
      bool candidate = false;
      if (inside && searched && e < entries) {
        candidate = args.exact ? score_of(e) <= limit : chosen && e == smallest.place;
      }
      mask |= lanes_where<kLanes>(candidate) << i;
    }
    count += __popc(mask);
    if (!listed) measure.classes(chunk_row, first, mask, open);
  }
  // Without a limit, or one that is no number, all codes are looked at.
  const bool scan = inside && open && !listed && count == 0;
  for (int64_t code = lane; scan && code < args.num_codes; code += kLanes) measure.code(code);
  __syncwarp();

  Nearest best = measure.best;
  for (int step = kLanes / 2; step > 0; step /= 2) {
    const double distance = __shfl_xor_sync(kAllLanes, best.distance, step);
    const long long code = __shfl_xor_sync(kAllLanes, static_cast<long long>(best.code), step);
    best = nearer(best, Nearest{distance, code});
  }
  if (lane != 0 || !inside) return;
  if (listed) {
    const bool crowded = is_crowded(args, count);
    if (crowded) args.losers[chunk_row] = limit;
    int* const place = crowded ? crowded_row(args, atomicAdd(&args.facts->crowded_rows, 1))
                               : args.open + atomicAdd(&args.facts->open_rows, 1);
    *place = static_cast<int>(chunk_row);
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
  if (args.num_rows <= kRowsOfWarps * args.blocks) {
    return launch(finish_kernel<kWarp>, ceil_div(args.num_rows, kRows<kWarp>), 1, kThreads<kWarp>,
                  stream, args, fours);
  }
  return launch(finish_kernel<8>, ceil_div(args.num_rows, kRows<8>), 1, kThreads<8>, stream, args,
                fours);
}

}  // namespace cuda
}  // namespace vqgan_fast
