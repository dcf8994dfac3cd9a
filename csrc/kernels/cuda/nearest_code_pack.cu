// The fp16 images of codes and rows, and what of them is not in the images: docs/numerics.md, "On
// CUDA".
//
// Three launches, because each needs the last one's result: the centre of the codes and their
// largest element (nearest_code_facts.cu), then the images.
#include <cstdint>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/nearest_code_centred.cuh"
#include "kernels/cuda/nearest_code_stages.cuh"
#include "kernels/cuda/ptx.cuh"

namespace vqgan_fast {
namespace cuda {
namespace {

// The largest element of an image lies in [2^13, 2^14): far from fp16's largest, and as far as may
// be from its smallest.
constexpr int kImageExponent = 13;
constexpr int kMostRowExponent = 40;    // of 2^r: below, half norms times 2^r stay in fp32
constexpr int kLeastRowExponent = -60;  // beyond, fp64 itself hardly tells the codes apart

// The exponent of a positive number: 2^exponent <= x < 2^(exponent + 1).
__device__ int exponent_of(float x) {
  const uint32_t bits = bits_of_float(x);
  if (bits >= 0x00800000u) return static_cast<int>(bits >> 23) - 127;
  return static_cast<int>(bits_of_float(x * 0x1p24f) >> 23) - 127 - 24;
}

__device__ float power_of_two(int exponent) {
  return float_of_bits(static_cast<uint32_t>(exponent + 127) << 23);
}

// x 2^exponent for an exponent beyond what one fp32 factor can be.
struct Scale {
  float first;
  float second;
  __device__ explicit Scale(int exponent)
      : first(power_of_two(exponent / 2)), second(power_of_two(exponent - exponent / 2)) {}
  __device__ float operator()(float x) const { return x * first * second; }
};

__device__ int codes_exponent(const CodebookFacts& facts) {
  return facts.largest == 0 ? 0 : kImageExponent - exponent_of(float_of_bits(facts.largest));
}

// Sums of squares over the columns of a thread.
struct Squares {
  float norm;
  float residual;
  float low;
};

__device__ void add_squares(Squares* sums, float value, float high, float low) {
  const float rest = (value - high) - low;
  sums->norm = fmaf(value, value, sums->norm);
  sums->residual = fmaf(rest, rest, sums->residual);
  sums->low = fmaf(low, low, sums->low);
}

// One panel of kPanel rows, kParts threads for each. Neighbouring threads read neighbouring memory,
// whether columns or rows lie side by side.
template <int kPanel>
struct PanelPacker {
  static constexpr int kParts = kPackThreads / kPanel;

  const Rows& rows;
  bool aligned;
  int64_t num_rows;
  int64_t dim;
  const float* centre;
  int row;   // of the panel
  int part;  // thread of that row
  int64_t offset;
  bool inside;

  __device__ PanelPacker(const Rows& rows, bool aligned, int64_t first_row, int64_t panel,
                         int64_t num_rows, int64_t dim, const float* centre)
      : rows(rows), aligned(aligned), num_rows(num_rows), dim(dim), centre(centre) {
    const bool adjoin = rows.element_stride == 1;
    row = adjoin ? threadIdx.x / kParts : threadIdx.x % kPanel;
    part = adjoin ? threadIdx.x % kParts : threadIdx.x / kPanel;
    inside = panel * kPanel + row < num_rows;
    offset = inside ? row_offset(rows, first_row + panel * kPanel + row) : 0;
  }

  // The largest element of this thread's share, and what load_centred told of it.
  __device__ float largest(int* told) const {
    float most = 0.0f;
    const int units = static_cast<int>(ceil_div(dim, kUnitColumns));
    for (int unit = part; unit < units && inside; unit += kParts) {
      float t[8];
      *told |= load_centred(rows, offset, aligned, unit, dim, centre, t);
#pragma unroll
      for (int i = 0; i < 8; ++i) most = fmaxf(most, fabsf(t[i]));
    }
    return most;
  }

  // Writes this thread's units; a row outside is zeros. `low_block`: which of the three blocks of
  // columns has the low parts.
  __device__ Squares write(unsigned char* panel_image, int depth, const Scale& scale, int low_block,
                           int* told) const {
    Squares sums{0.0f, 0.0f, 0.0f};
    for (int unit = part; unit < depth / kUnitColumns; unit += kParts) {
      uint16_t halves[8] = {};
      if (inside && is_split(dim)) {
        pack_split(unit, scale, low_block, halves, &sums, told);
      } else if (inside) {
        float t[8];
        *told |= load_centred(rows, offset, aligned, unit, dim, centre, t);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const float value = scale(t[i]);
          halves[i] = ptx::to_half(value);
          add_squares(&sums, value, ptx::from_half(halves[i]), 0.0f);
        }
      }
      uint4 bits;
      bits.x = halves[0] | static_cast<uint32_t>(halves[1]) << 16;
      bits.y = halves[2] | static_cast<uint32_t>(halves[3]) << 16;
      bits.z = halves[4] | static_cast<uint32_t>(halves[5]) << 16;
      bits.w = halves[6] | static_cast<uint32_t>(halves[7]) << 16;
      *reinterpret_cast<uint4*>(panel_image + unit_offset(kPanel, unit, row)) = bits;
    }
    return sums;
  }

  __device__ void pack_split(int unit, const Scale& scale, int low_block, uint16_t (&halves)[8],
                             Squares* sums, int* told) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int column = unit * kUnitColumns + i;
      const int block = column / static_cast<int>(dim);
      const int d = column % static_cast<int>(dim);
      if (block >= 3) continue;
      const float x = load_float(rows.data, rows.dtype, offset + d * rows.element_stride);
      float t = x - centre[d];
      if (!finite(x)) *told |= 1;
      if (!finite(t)) {
        *told |= 2;
        t = 0.0f;
      }
      const float value = scale(t);
      const uint16_t high = ptx::to_half(value);
      const uint16_t low = ptx::to_half(value - ptx::from_half(high));
      halves[i] = block == low_block ? low : high;
      if (block == 0) add_squares(sums, value, ptx::from_half(high), ptx::from_half(low));
    }
  }
};

__device__ void pack_codes(const SearchArgs& args, bool aligned, int64_t panel) {
  __shared__ float parts[3][kPackThreads];
  __shared__ int told_parts[kPackThreads];
  const PanelPacker<kCodePanel> packer(args.codebook, aligned, 0, panel, args.num_codes, args.dim,
                                       args.centre);
  constexpr int kParts = PanelPacker<kCodePanel>::kParts;
  const int depth = args.plan.depth;
  unsigned char* image = args.code_image + panel * code_panel_bytes(depth);
  int told = 0;
  const Squares sums = packer.write(image, depth, Scale(codes_exponent(*args.facts)), 2, &told);
  const int slot = packer.part * kCodePanel + packer.row;
  parts[0][slot] = sums.norm;
  parts[1][slot] = sums.residual;
  parts[2][slot] = sums.low;
  told_parts[slot] = told;
  __syncthreads();

  // One code a thread, then one maximum a warp.
  const int code = threadIdx.x;
  if (code >= kCodePanel) return;
  float squares[3];
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    squares[i] = parts[i][code];
    for (int p = 1; p < kParts; ++p) squares[i] += parts[i][p * kCodePanel + code];
  }
  told = told_parts[code];
  for (int p = 1; p < kParts; ++p) told |= told_parts[p * kCodePanel + code];
  const bool usable = panel * kCodePanel + code < args.num_codes && told == 0;
  float* half_norms = reinterpret_cast<float*>(image + code_columns_bytes(depth));
  half_norms[code] = usable ? 0.5f * squares[0] : float_of_bits(0x7f800000u);
  unsigned* const maxima[4] = {&args.facts->norm2, &args.facts->residual2, &args.facts->low2,
                               &args.facts->any_finite};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const unsigned bits = i < 3 ? bits_of_float(squares[i < 3 ? i : 0]) : 1u;
    const unsigned most = warp_max(usable ? bits : 0u);
    if (threadIdx.x % kWarp == 0 && most > 0) atomicMax(maxima[i], most);
  }
}

__device__ void pack_rows(const SearchArgs& args, bool aligned, int64_t panel) {
  __shared__ float parts[3][kPackThreads];
  __shared__ int told_parts[kPackThreads];
  const PanelPacker<kRowPanel> packer(args.z, aligned, args.first_row, panel, args.num_rows,
                                      args.dim, args.centre);
  constexpr int kParts = PanelPacker<kRowPanel>::kParts;
  const int slot = packer.part * kRowPanel + packer.row;
  int told = 0;
  parts[0][slot] = packer.largest(&told);
  told_parts[slot] = told;
  __syncthreads();
  float largest = 0.0f;
  for (int p = 0; p < kParts; ++p) {
    largest = fmaxf(largest, parts[0][p * kRowPanel + packer.row]);
    told |= told_parts[p * kRowPanel + packer.row];
  }
  __syncthreads();  // before the sums go where the maxima were

  const int base = codes_exponent(*args.facts);
  int exponent = largest > 0.0f ? kImageExponent - exponent_of(largest) : base + kMostRowExponent;
  if (exponent > base + kMostRowExponent) exponent = base + kMostRowExponent;
  const int row_exponent = exponent - base;
  unsigned char* image = args.row_image + panel * row_panel_bytes(args.plan.depth);
  const Squares sums = packer.write(image, args.plan.depth, Scale(exponent), 1, &told);
  parts[0][slot] = sums.norm;
  parts[1][slot] = sums.residual;
  parts[2][slot] = sums.low;
  __syncthreads();
  if (packer.part != 0 || !packer.inside) return;
  Squares all = sums;
  for (int p = 1; p < kParts; ++p) {
    all.norm += parts[0][p * kRowPanel + packer.row];
    all.residual += parts[1][p * kRowPanel + packer.row];
    all.low += parts[2][p * kRowPanel + packer.row];
  }
  RowFacts facts{1.0f, sqrtf(all.norm), sqrtf(all.residual), sqrtf(all.low)};
  if (told & 1) {
    facts.scale = 0.0f;
  } else if (told != 0 || row_exponent < kLeastRowExponent) {
    facts.scale = -1.0f;
  } else {
    facts.scale = power_of_two(row_exponent);
  }
  args.row_facts[panel * kRowPanel + packer.row] = facts;
}

// The first `code_panels` blocks pack codes, the others rows.
__global__ void __launch_bounds__(kPackThreads)
    pack_kernel(SearchArgs args, int64_t code_panels, bool codes_aligned, bool rows_aligned) {
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    args.facts->open_rows = 0;
    args.facts->crowded_rows = 0;
  }
  const int64_t panel = blockIdx.x;
  if (panel < code_panels) {
    pack_codes(args, codes_aligned, panel);
  } else {
    pack_rows(args, rows_aligned, panel - code_panels);
  }
}

}  // namespace

cudaError_t pack_images(const SearchArgs& args, bool codes, cudaStream_t stream) {
  if (codes) {
    const cudaError_t error = find_facts(args, stream);
    if (error != cudaSuccess) return error;
  }
  const int64_t code_panels = codes ? args.plan.code_tiles : 0;
  // Images are whole row tiles, so that no block reads what nothing wrote.
  const int64_t row_panels = ceil_div(args.num_rows, kWgmmaRows) * (kWgmmaRows / kRowPanel);
  return launch(pack_kernel, code_panels + row_panels, 1, kPackThreads, stream, args, code_panels,
                eights_allowed(args.codebook), eights_allowed(args.z));
}

}  // namespace cuda
}  // namespace vqgan_fast
