// Scores by wgmma, on sm_90a. A persistent block has 256 rows in shared memory and streams the
// codes past them: one thread copies, two warpgroups multiply, 128 rows each. They take turns:
// while one looks for minima, the tensor cores work for the other.
#include <cstdint>

#include "kernels/cuda/class_records.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/nearest_code_stages.cuh"
#include "kernels/cuda/sm90_ptx.cuh"

namespace vqgan_fast {
namespace cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarpgroup = 128;
constexpr int kConsumers = 2;  // warpgroups
constexpr int kThreads = (1 + kConsumers) * kWarpgroup;
constexpr int kConsumerWarps = kConsumers * kWarpgroup / kWarp;
constexpr int kPanels = kWgmmaRows / kRowPanel / kConsumers;  // of rows, of a warpgroup
constexpr int kStageColumns = 64;
constexpr int kMaxStages = 8;
constexpr int kSharedBytes = 227 << 10;
constexpr int kBarrierBytes = 256;
// 40 * 128 + 232 * 256 registers are all that a multiprocessor has.
constexpr int kProducerRegisters = 40;
constexpr int kConsumerRegisters = 232;

static_assert(kWgmmaRows == kConsumers * kPanels * kRowPanel, "rows of a block");

// How shared memory is cut for a depth.
struct Ring {
  int depth;
  int per_tile;     // stages of one tile of codes
  int stage_bytes;  // columns of the codes, and behind them their half norms
  int stages;
  int row_bytes;
  int row_slots;  // two where they fit: the next rows come while these are searched

  __host__ __device__ explicit Ring(int depth)
      : depth(depth),
        per_tile(static_cast<int>(ceil_div(depth, kStageColumns))),
        stage_bytes((depth < kStageColumns ? depth : kStageColumns) * kCodePanel * 2 +
                    kHalfNormBytes),
        row_bytes(depth * kWgmmaRows * 2),
        row_slots(depth <= kWgmmaMaxDepth / 2 ? 2 : 1) {
    const int fit = (kSharedBytes - kBarrierBytes - row_slots * row_bytes) / stage_bytes;
    stages = fit < kMaxStages ? fit : kMaxStages;
  }
  __host__ __device__ int bytes() const {
    return kBarrierBytes + row_slots * row_bytes + stages * stage_bytes;
  }
  __host__ __device__ int rows_at(int slot) const { return kBarrierBytes + slot * row_bytes; }
  __host__ __device__ int stage_at(int slot) const {
    return kBarrierBytes + row_slots * row_bytes + slot * stage_bytes;
  }
  __host__ __device__ int columns(int in_tile) const {
    const int rest = depth - in_tile * kStageColumns;
    return rest < kStageColumns ? rest : kStageColumns;
  }
};

// The first bytes of shared memory.
struct Barriers {
  uint64_t full[kMaxStages];   // copied
  uint64_t empty[kMaxStages];  // multiplied, by all consumers
  uint64_t rows_full[2];
  uint64_t rows_empty[2];
};
static_assert(sizeof(Barriers) <= kBarrierBytes, "barriers");

// Which slot of a ring comes next, and in which round.
struct Turn {
  int slot = 0;
  int parity = 0;
  __device__ void advance(int slots) {
    if (++slot == slots) {
      slot = 0;
      parity ^= 1;
    }
  }
};

// Piece of work `item`: a tile of rows against a range of the tiles of codes.
struct Item {
  int row_tile;
  int split;
  int first_tile;
  int end_tile;

  __device__ Item(const SearchArgs& args, int item) {
    const int row_tiles = static_cast<int>(args.plan.row_tiles);
    const int per_split = static_cast<int>(args.plan.tiles_per_split);
    const int code_tiles = static_cast<int>(args.plan.code_tiles);
    split = item / row_tiles;
    row_tile = item - split * row_tiles;
    first_tile = split * per_split;
    end_tile = first_tile + per_split < code_tiles ? first_tile + per_split : code_tiles;
  }
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ void request_rows(const SearchArgs& args, const Ring& ring, unsigned char* shared,
                             Barriers* barriers, const Turn& turn, int item) {
  ptx::wait_barrier(&barriers->rows_empty[turn.slot], turn.parity ^ 1);
  ptx::arrive_and_expect(&barriers->rows_full[turn.slot], ring.row_bytes);
  ptx::copy_bulk(shared + ring.rows_at(turn.slot),
                 args.row_image + static_cast<int64_t>(Item(args, item).row_tile) * ring.row_bytes,
                 ring.row_bytes, &barriers->rows_full[turn.slot]);
}

// The one thread that copies.
__device__ void produce(const SearchArgs& args, const Ring& ring, unsigned char* shared,
                        Barriers* barriers, int items) {
  Turn stage;
  Turn rows;
  for (int item = blockIdx.x; item < items; item += gridDim.x) {
    const Item work(args, item);
    const bool first = item == static_cast<int>(blockIdx.x);
    if (first || ring.row_slots == 1) {
      request_rows(args, ring, shared, barriers, rows, item);
      rows.advance(ring.row_slots);
    }
    // With two slots: once a stage has come free since this item began, nobody reads the rows
    // before it.
    const int total = (work.end_tile - work.first_tile) * ring.per_tile;
    const int prefetch_at = ring.stages < total - 1 ? ring.stages : total - 1;
    for (int i = 0; i < total; ++i) {
      const int in_tile = i % ring.per_tile;
      const unsigned char* tile =
          args.code_image + (work.first_tile + i / ring.per_tile) * code_panel_bytes(ring.depth);
      // The half norms lie behind the last columns, in memory as in the stage.
      const bool last = in_tile == ring.per_tile - 1;
      const int bytes = ring.columns(in_tile) * kCodePanel * 2 + (last ? kHalfNormBytes : 0);
      ptx::wait_barrier(&barriers->empty[stage.slot], stage.parity ^ 1);
      ptx::arrive_and_expect(&barriers->full[stage.slot], bytes);
      ptx::copy_bulk(shared + ring.stage_at(stage.slot),
                     tile + unit_offset(kCodePanel, in_tile * kStageColumns / kUnitColumns, 0),
                     bytes, &barriers->full[stage.slot]);
      stage.advance(ring.stages);
      if (ring.row_slots == 2 && i == prefetch_at && item + static_cast<int>(gridDim.x) < items) {
        request_rows(args, ring, shared, barriers, rows, item + static_cast<int>(gridDim.x));
        rows.advance(ring.row_slots);
      }
    }
  }
}

// One arrival for each warp.
__device__ void release(uint64_t* barrier) {
  __syncwarp();
  if (threadIdx.x % kWarp == 0) ptx::arrive(barrier);
}

// products (+)= rows codes^T over kSteps steps of columns, as one group. The number is a constant:
// behind a loop whose end it does not know, ptxas closes the group by an empty product, and a wait
// that leaves one group under way leaves that one and waits for this.
template <int kSteps>
__device__ void multiply_steps(float (&products)[kPanels][64], uint32_t rows, uint32_t row_panel,
                               uint32_t codes, int accumulate) {
  ptx::begin_products();
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const uint64_t these_codes = matrix_descriptor(codes + unit_offset(kCodePanel, 2 * step, 0),
                                                   kCodePanel * kUnitBytes, kCoreMatrixBytes);
#pragma unroll
    for (int p = 0; p < kPanels; ++p) {
      const uint64_t these_rows =
          matrix_descriptor(rows + p * row_panel + unit_offset(kRowPanel, 2 * step, 0),
                            kRowPanel * kUnitBytes, kCoreMatrixBytes);
      ptx::multiply_64x128(products[p], these_rows, these_codes, step > 0 ? 1 : accumulate);
    }
  }
  ptx::commit_products();
}

static_assert(kStageColumns == 4 * kDepthStep, "steps of a stage");
__device__ void multiply_stage(float (&products)[kPanels][64], int steps, uint32_t rows,
                               uint32_t row_panel, uint32_t codes, int accumulate) {
  switch (steps) {
    case 1:
      return multiply_steps<1>(products, rows, row_panel, codes, accumulate);
    case 2:
      return multiply_steps<2>(products, rows, row_panel, codes, accumulate);
    case 3:
      return multiply_steps<3>(products, rows, row_panel, codes, accumulate);
    default:
      return multiply_steps<4>(products, rows, row_panel, codes, accumulate);
  }
}

// One of the two warpgroups that multiply.
template <int kGroups>
__device__ void consume(const SearchArgs& args, const Ring& ring, unsigned char* shared,
                        Barriers* barriers, int items, int warpgroup) {
  const int thread = threadIdx.x % kWarpgroup;
  const int lane = thread % kWarp;
  const int warp = thread / kWarp;  // has rows 16 warp .. 16 warp + 15 of a panel
  const int my_turn = 1 + warpgroup;
  const int other_turn = 2 - warpgroup;
  if (warpgroup == 1) ptx::arrive_named(other_turn, kConsumers * kWarpgroup);

  const uint32_t row_panel = static_cast<uint32_t>(row_panel_bytes(ring.depth));
  float products[kPanels][64] = {};
  Turn stage;
  Turn rows;
  for (int item = blockIdx.x; item < items; item += gridDim.x) {
    const Item work(args, item);
    const int first_row = work.row_tile * kWgmmaRows + warpgroup * kPanels * kRowPanel + 16 * warp;
    float scales[kPanels][2];
    ClassRecord<kGroups> records[kPanels][2];
#pragma unroll
    for (int p = 0; p < kPanels; ++p) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        scales[p][half] = row_scale(args, first_row + p * kRowPanel + fragment_row(lane, half));
        records[p][half].clear();
      }
    }
    ptx::wait_barrier(&barriers->rows_full[rows.slot], rows.parity);
    const uint32_t rows_address = ptx::shared_address(shared + ring.rows_at(rows.slot)) +
                                  static_cast<uint32_t>(warpgroup * kPanels) * row_panel;

    for (int tile = work.first_tile; tile < work.end_tile; ++tile) {
      ptx::sync_named(my_turn, kConsumers * kWarpgroup);
      Turn before = stage;
      for (int in_tile = 0; in_tile < ring.per_tile; ++in_tile) {
        ptx::wait_barrier(&barriers->full[stage.slot], stage.parity);
        const uint32_t codes_address = ptx::shared_address(shared + ring.stage_at(stage.slot));
        const uint32_t these_rows =
            rows_address + unit_offset(kRowPanel, in_tile * kStageColumns / kUnitColumns, 0);
        multiply_stage(products, ring.columns(in_tile) / kDepthStep, these_rows, row_panel,
                       codes_address, in_tile > 0);
        ptx::wait_for_products<1>();
        if (in_tile > 0) release(&barriers->empty[before.slot]);
        before = stage;
        stage.advance(ring.stages);
      }
      // Nobody waits for the turn that never comes.
      const bool last_tile = tile == work.end_tile - 1;
      const bool last = last_tile && item + static_cast<int>(gridDim.x) >= items;
      if (warpgroup == 0 || !last) ptx::arrive_named(other_turn, kConsumers * kWarpgroup);
      ptx::wait_for_products<0>();
#pragma unroll
      for (int p = 0; p < kPanels; ++p) {
#pragma unroll
        for (int i = 0; i < 64; ++i) ptx::keep(products[p][i]);
      }
      if (last_tile) release(&barriers->rows_empty[rows.slot]);

      const float* half_norms = reinterpret_cast<const float*>(
          shared + ring.stage_at(before.slot) + ring.columns(ring.per_tile - 1) * kCodePanel * 2);
      constexpr int kPerGroup = kCodePanel / 8 / kGroups;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        float smallest[kPanels][2];
#pragma unroll
        for (int p = 0; p < kPanels; ++p) {
          smallest[p][0] = smallest[p][1] = float_of_bits(0x7f800000u);
        }
#pragma unroll
        for (int j = g * kPerGroup; j < (g + 1) * kPerGroup; ++j) {
          const float2 norms =
              *reinterpret_cast<const float2*>(half_norms + fragment_column(lane, j, 0));
#pragma unroll
          for (int p = 0; p < kPanels; ++p) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              smallest[p][half] = smaller_score(smallest[p][half], norms, scales[p][half],
                                                products[p] + fragment_value(j, half, 0));
            }
          }
        }
#pragma unroll
        for (int p = 0; p < kPanels; ++p) {
          records[p][0].take(g, smallest[p][0], tile);
          records[p][1].take(g, smallest[p][1], tile);
        }
      }
      ptx::fence_generic_reads();  // of the half norms, before the copy engine may overwrite them
      release(&barriers->empty[before.slot]);
    }
    rows.advance(ring.row_slots);

#pragma unroll
    for (int p = 0; p < kPanels; ++p) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + p * kRowPanel + fragment_row(lane, half);
        const ClassRecord<kGroups>& record = records[p][half];
        const float loser = quad_min(record.loser);
        if (row >= args.num_rows) continue;
        const int64_t place = work.split * args.plan.chunk_rows + row;
        if (lane % 4 == 0) args.losers[place] = loser;
        ClassBest* out = args.records + place * (4 * kGroups);
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          out[g * 4 + lane % 4] = ClassBest{record.best[g], record.tile[g]};
        }
      }
    }
  }
}

#endif

template <int kGroups>
__global__ void __launch_bounds__(kThreads, 1) wgmma_kernel(SearchArgs args, int items) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  unsigned char* const shared = ptx::dynamic_shared();
  Barriers* const barriers = reinterpret_cast<Barriers*>(shared);
  const Ring ring(args.plan.depth);
  if (threadIdx.x == 0) {
    for (int i = 0; i < ring.stages; ++i) {
      ptx::init_barrier(&barriers->full[i], 1);
      ptx::init_barrier(&barriers->empty[i], kConsumerWarps);
    }
    for (int i = 0; i < ring.row_slots; ++i) {
      ptx::init_barrier(&barriers->rows_full[i], 1);
      ptx::init_barrier(&barriers->rows_empty[i], kConsumerWarps);
    }
    ptx::fence_barrier_init();
  }
  __syncthreads();
  const int warpgroup = threadIdx.x / kWarpgroup;
  if (warpgroup == 0) {
    ptx::give_registers<kProducerRegisters>();
    if (threadIdx.x == 0) produce(args, ring, shared, barriers, items);
  } else {
    ptx::take_registers<kConsumerRegisters>();
    consume<kGroups>(args, ring, shared, barriers, items, warpgroup - 1);
  }
#endif
}

template <int kGroups>
cudaError_t launch_groups(const SearchArgs& args, cudaStream_t stream) {
  // Of the rows at hand: the last chunk may have fewer tiles than the plan's.
  SearchArgs now = args;
  now.plan.row_tiles = ceil_div(args.num_rows, kWgmmaRows);
  const int64_t items = now.plan.row_tiles * args.plan.splits;  // at most 2^10 + twice the blocks
  return launch_shared(wgmma_kernel<kGroups>, items < args.blocks ? items : args.blocks, kThreads,
                       Ring(args.plan.depth).bytes(), kSharedBytes, stream, now,
                       static_cast<int>(items));
}

}  // namespace

bool wgmma_is_compiled() { return compiled_for(wgmma_kernel<2>, 90); }

cudaError_t search_wgmma(const SearchArgs& args, cudaStream_t stream) {
  switch (args.plan.classes.groups) {
    case 2:
      return launch_groups<2>(args, stream);
    case 4:
      return launch_groups<4>(args, stream);
    default:
      return launch_groups<8>(args, stream);
  }
}

}  // namespace cuda
}  // namespace vqgan_fast
