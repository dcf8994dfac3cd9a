#include "kernels/cpu/nearest_code.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/nearest_code_block.h"
#include "kernels/cpu/nearest_code_kernels.h"
#include "kernels/cpu/packed_codebook.h"

namespace vqgan_fast {
namespace {

// Fewer codes than this are not worth a task of their own.
constexpr int64_t kLeastRangeCodes = 512;
// Tasks for each thread below which codes are split as well as rows.
constexpr int64_t kTasksPerThread = 4;

struct Level {
  SimdLevel simd;
  const NearestCodeKernels* kernels;
};

Level highest_level() {
  const SimdLevel simd = simd_level();
#ifdef VQGAN_FAST_HAS_NEAREST_CODE_AVX512
  if (simd >= SimdLevel::kAvx512) return {SimdLevel::kAvx512, &kNearestCodeAvx512};
#endif
#ifdef VQGAN_FAST_HAS_NEAREST_CODE_AVX2
  if (simd >= SimdLevel::kAvx2) return {SimdLevel::kAvx2, &kNearestCodeAvx2};
#endif
  static_cast<void>(simd);
  return {SimdLevel::kBaseline, &kNearestCodeBaseline};
}

void write_result(const NearestCodeArgs& args, int64_t row, const Nearest& nearest) {
  args.indices[row] = std::max<int64_t>(nearest.index, 0);
  if (args.distances == nullptr) return;
  if (args.distance_dtype == DType::kFloat64) {
    static_cast<double*>(args.distances)[row] = nearest.distance;
  } else {
    static_cast<float*>(args.distances)[row] = static_cast<float>(nearest.distance);
  }
}

// Whether rows are worth the packing of the codebook, and the bound of the screen holds for so many
// dimensions.
bool worth_screening(const NearestCodeArgs& args) {
  return args.num_rows > kDirectRows && (args.dim + 8) * 0x1p-24 < 0.5;
}

// Codes in each range that the codebook is cut into: all of them, unless the blocks of rows alone
// would leave threads without work.
int64_t codes_per_range(const NearestCodeArgs& args, int64_t num_blocks, int64_t num_threads) {
  const int64_t wanted_tasks = num_threads > 1 ? kTasksPerThread * num_threads : 1;
  const int64_t num_ranges =
      std::clamp<int64_t>((wanted_tasks + num_blocks - 1) / num_blocks, 1,
                          std::max<int64_t>(1, args.num_codes / kLeastRangeCodes));
  const int64_t num_panels = (args.num_codes + kPanelCodes - 1) / kPanelCodes;
  return (num_panels + num_ranges - 1) / num_ranges * kPanelCodes;
}

}  // namespace

void nearest_code(const NearestCodeArgs& args, const Parallel& parallel) {
  if (args.num_rows == 0) return;
  const DefaultFloatMode float_mode;
  const NearestCodeKernels& kernels = *highest_level().kernels;
  PackedCodebook packed;
  if (worth_screening(args)) {
    packed = pack_codebook(args.codebook, args.num_codes, args.dim, parallel);
  }
  const int64_t num_blocks = (args.num_rows + kBlockRows - 1) / kBlockRows;
  const int64_t range_codes = codes_per_range(args, num_blocks, parallel.num_threads);
  const int64_t num_ranges = (args.num_codes + range_codes - 1) / range_codes;
  const bool split = num_ranges > 1;
  std::vector<Nearest> partial(split ? num_ranges * args.num_rows : 0);

  parallel.run(0, num_blocks * num_ranges, 1, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    BlockSearch search(args, packed, kernels, args.distances != nullptr || split);
    std::vector<Nearest> found(kBlockRows);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t range = task % num_ranges;
      const int64_t first_row = task / num_ranges * kBlockRows;
      const int64_t num_rows = std::min(kBlockRows, args.num_rows - first_row);
      const int64_t first_code = range * range_codes;
      const int64_t last_code = std::min(first_code + range_codes, args.num_codes);
      search.run(first_row, num_rows, first_code, last_code, found.data());
      for (int64_t r = 0; r < num_rows; ++r) {
        if (split) {
          partial[(first_row + r) * num_ranges + range] = found[r];
        } else {
          write_result(args, first_row + r, found[r]);
        }
      }
    }
  });

  if (!split) return;
  for (int64_t n = 0; n < args.num_rows; ++n) {
    Nearest nearest;
    for (int64_t range = 0; range < num_ranges; ++range) {
      const Nearest& part = partial[n * num_ranges + range];
      if (part.index >= 0) nearest.offer(part.distance, part.index);
    }
    write_result(args, n, nearest);
  }
}

SimdLevel nearest_code_simd_level() { return highest_level().simd; }

}  // namespace vqgan_fast
