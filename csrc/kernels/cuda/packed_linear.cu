// A block has one panel of outputs and some rows: a lane for each output, a warp for each segment
// of the inputs. Segments are added in order, a group of them at a time.
#include <cstdint>

#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/decode_math.h"

namespace vqgan_fast {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kGroup = 2 * kWarps;  // segments between two barriers

__device__ inline float weight_of(const float* panel, int output) { return panel[output]; }
__device__ inline float weight_of(const uint16_t* panel, int output) {
  const uint32_t bits = panel[output % (kPanel / 2) * 2 + output / (kPanel / 2)];
  return float_from_bits(bits << 16);
}
__device__ inline float weight_of(const int8_t* panel, int output) { return panel[output]; }

// What a thread adds to its sums from one segment: weights of its output, inputs of all rows.
template <class W>
__device__ inline void add_segment(const PackedLinearArgs& args, const W* weight, int64_t begin,
                                   int64_t end, float (&sums)[1]) {
  const int lane = threadIdx.x % 32;
  // A row alone waits for the memory: many weights are on their way.
#pragma unroll 32
  for (int64_t k = begin; k < end; ++k) {
    sums[0] = fused(args.x[k], weight_of(weight + k * kPanel, lane), sums[0]);
  }
}

template <class W, int kRows>
__device__ inline void add_segment(const PackedLinearArgs& args, const W* weight, int64_t begin,
                                   int64_t end, float (&sums)[kRows]) {
  // The rows side by side: a load for all of them instead of one for each.
  alignas(16) __shared__ float inputs[kWarps][kSegment][kRows];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRows;
  __syncwarp();  // nobody reads the last segment's any more
  const int size = static_cast<int>(end - begin);
#pragma unroll 1
  for (int k = lane; k < size; k += 32) {
    float x[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t row = first_row + r < args.rows ? first_row + r : args.rows - 1;
      x[r] = args.x[row * args.dim + begin + k];
    }
    // Lanes store kRows floats apart: four at a time are a quarter of the bank conflicts.
    auto* four = reinterpret_cast<float4*>(inputs[warp][k]);
#pragma unroll
    for (int r = 0; r < kRows; r += 4) four[r / 4] = float4{x[r], x[r + 1], x[r + 2], x[r + 3]};
  }
  __syncwarp();
  weight += begin * kPanel;
#pragma unroll 8
  for (int k = 0; k < size; ++k) {
    const float w = weight_of(weight + k * kPanel, lane);
    const auto* four = reinterpret_cast<const float4*>(inputs[warp][k]);
#pragma unroll
    for (int r = 0; r < kRows; r += 4) {
      const float4 x = four[r / 4];
      sums[r] = fused(x.x, w, sums[r]);
      sums[r + 1] = fused(x.y, w, sums[r + 1]);
      sums[r + 2] = fused(x.z, w, sums[r + 2]);
      sums[r + 3] = fused(x.w, w, sums[r + 3]);
    }
  }
}

// Two blocks on a multiprocessor: registers for the weights that are on their way, of which the
// compiler otherwise keeps few.
template <class W, int kRows>
__global__ void __launch_bounds__(kThreads, 2) linear_kernel(PackedLinearArgs args) {
  __shared__ float chains[kGroup][kRows][kPanel];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const W* weight =
      static_cast<const W*>(args.weight) + static_cast<int64_t>(blockIdx.y) * args.dim * kPanel;
  const int64_t segments = (args.dim + kSegment - 1) / kSegment;
  float total = 0.0f;  // of row threadIdx.x / 32 and output lane, where there is such a row
  for (int64_t group = 0; group < segments; group += kGroup) {
    for (int s = warp; s < kGroup && group + s < segments; s += kWarps) {
      const int64_t begin = (group + s) * kSegment;
      const int64_t end = begin + kSegment < args.dim ? begin + kSegment : args.dim;
      float sums[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) sums[r] = 0.0f;
      add_segment(args, weight, begin, end, sums);
#pragma unroll
      for (int r = 0; r < kRows; ++r) chains[s][r][lane] = sums[r];
    }
    __syncthreads();
    if (warp < kRows) {
      for (int s = 0; s < kGroup && group + s < segments; ++s) {
        total = group + s == 0 ? chains[s][warp][lane] : total + chains[s][warp][lane];
      }
    }
    __syncthreads();
  }
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + warp;
  const int64_t output = static_cast<int64_t>(blockIdx.y) * kPanel + lane;
  if (warp >= kRows || row >= args.rows || output >= args.outputs) return;
  if (args.scales != nullptr) total *= args.scales[output];
  if (args.bias != nullptr) total += args.bias[output];
  if (args.gelu) total = gelu(total);
  if (args.residual != nullptr) total += args.residual[row * args.outputs + output];
  args.y[row * args.outputs + output] = total;
}

template <class W>
cudaError_t launch_linear(const PackedLinearArgs& args, cudaStream_t stream) {
  const int64_t panels = (args.outputs + kPanel - 1) / kPanel;
  if (args.rows == 1) return launch(linear_kernel<W, 1>, 1, panels, kThreads, stream, args);
  // Rows where a grid may be long; blocks of the same weights also start side by side.
  return launch(linear_kernel<W, kWarps>, (args.rows + kWarps - 1) / kWarps, panels, kThreads,
                stream, args);
}

}  // namespace

cudaError_t packed_linear(const PackedLinearArgs& args, cudaStream_t stream) {
  switch (args.type) {
    case WeightType::kBFloat16:
      return launch_linear<uint16_t>(args, stream);
    case WeightType::kInt8:
      return launch_linear<int8_t>(args, stream);
    default:
      return launch_linear<float>(args, stream);
  }
}

}  // namespace cuda
}  // namespace vqgan_fast
