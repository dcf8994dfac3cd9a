#include "kernels/cpu/direct_pass.h"

#include <algorithm>
#include <type_traits>

#include "kernels/cpu/code_distances.h"
#include "kernels/cpu/row_block.h"

namespace vqgan_fast {
namespace {

// Panels that stay in the first-level cache while all rows pass over them.
constexpr int64_t kGroupBytes = 16384;

// Rows up to this pass over the codes where they lie; for more of them, panels are worth making.
// Where codes are short, adding up the lanes is most of the work.
int64_t most_rows_in_place(int64_t dim) { return std::min<int64_t>(4, 1 + dim / 8); }

const DirectKernel<float>& kernel_of(const CodeDistanceKernels& kernels, float) {
  return kernels.fp32;
}

const DirectKernel<double>& kernel_of(const CodeDistanceKernels& kernels, double) {
  return kernels.fp64;
}

void pack_codes(const CodeKernels& from, const void* codes, int64_t stride, int64_t count,
                int64_t dim, float* panel) {
  from.pack_fp32(codes, stride, count, dim, panel);
}

void pack_codes(const CodeKernels& from, const void* codes, int64_t stride, int64_t count,
                int64_t dim, double* panel) {
  from.pack_fp64(codes, stride, count, dim, panel);
}

}  // namespace

template <class Scalar>
DirectPass<Scalar>::DirectPass(const Rows& codebook, int64_t dim,
                               const CodeDistanceKernels& kernels)
    : codebook_(codebook),
      dim_(dim),
      kernels_(kernels),
      in_place_(in_place_kernels(kernels, codebook)) {}

template <class Scalar>
void DirectPass<Scalar>::run(const double* const* z, int64_t num_rows, int64_t first_code,
                             int64_t last_code, const Scalar* limits, KeepDistances<Scalar> keep,
                             void* search) {
  if (is_in_place(num_rows, last_code)) {
    return run_in_place(z, num_rows, first_code, last_code, limits, keep, search);
  }
  const DirectKernel<Scalar>& kernel = kernel_of(kernels_, Scalar());
  lay_rows(z, num_rows, kernel.tile_rows);
  const int64_t panel_size = kernel.panel_codes * dim_;
  const int64_t group = std::max<int64_t>(1, kGroupBytes / (panel_size * sizeof(Scalar)));
  panels_.resize(group * panel_size);
  for (int64_t k = first_code; k < last_code; k += group * kernel.panel_codes) {
    int64_t num_panels = 0;
    for (; num_panels < group; ++num_panels) {
      const int64_t code = k + num_panels * kernel.panel_codes;
      if (code >= last_code) break;
      pack(code, std::min<int64_t>(kernel.panel_codes, last_code - code),
           panels_.data() + num_panels * panel_size);
    }
    bool any_open = false;
    for (int64_t tile = 0; tile < num_rows; tile += kernel.tile_rows) {
      const int64_t tile_rows = std::min<int64_t>(kernel.tile_rows, num_rows - tile);
      const Scalar* of_tile = limits + tile;
      if (std::all_of(of_tile, of_tile + tile_rows,
                      [](Scalar limit) { return limit == kShut<Scalar>; })) {
        continue;
      }
      any_open = true;
      kernel.run(rows_.data() + tile * dim_, tile_rows, dim_, panels_.data(), num_panels, of_tile,
                 keep, search, tile, k);
    }
    if (!any_open) return;
  }
}

template <class Scalar>
bool DirectPass<Scalar>::is_in_place(int64_t num_rows, int64_t last_code) const {
  return std::is_same_v<Scalar, float> && num_rows <= most_rows_in_place(dim_) &&
         in_place_ != nullptr && in_place_->few_rows != nullptr &&
         last_code <= codebook_.inner_rows;
}

template <class Scalar>
void DirectPass<Scalar>::run_in_place(const double* const* z, int64_t num_rows, int64_t first_code,
                                      int64_t last_code, const Scalar* limits,
                                      KeepDistances<Scalar> keep, void* search) {
  if constexpr (std::is_same_v<Scalar, float>) {
    const int64_t row_size = (dim_ + kFewRowsStep - 1) / kFewRowsStep * kFewRowsStep;
    rows_.assign(num_rows * row_size, 0.0f);
    for (int64_t i = 0; i < num_rows; ++i) std::copy_n(z[i], dim_, rows_.begin() + i * row_size);
    const int64_t code_bytes = dim_ * in_place_->element_bytes;
    const int64_t group = num_rows <= kFewRows ? last_code - first_code
                                               : std::max<int64_t>(8, kGroupBytes / code_bytes);
    for (int64_t k = first_code; k < last_code; k += group) {
      const char* code = static_cast<const char*>(codebook_.data) +
                         k * codebook_.inner_stride * in_place_->element_bytes;
      for (int64_t row = 0; row < num_rows; row += kFewRows) {
        in_place_->few_rows(rows_.data() + row * row_size,
                            static_cast<int>(std::min<int64_t>(kFewRows, num_rows - row)), dim_,
                            code, codebook_.inner_stride, std::min(group, last_code - k),
                            limits + row, keep, search, row, k);
      }
    }
  }
}

// Lays rows into tiles, the elements of a tile's rows side by side.
template <class Scalar>
void DirectPass<Scalar>::lay_rows(const double* const* z, int64_t num_rows, int64_t tile_rows) {
  rows_.resize(num_rows * dim_);
  for (int64_t i = 0; i < num_rows; ++i) {
    const int64_t tile = i / tile_rows * tile_rows;
    const int64_t width = std::min(tile_rows, num_rows - tile);
    Scalar* to = rows_.data() + tile * dim_ + (i - tile);
    for (int64_t d = 0; d < dim_; ++d) to[d * width] = static_cast<Scalar>(z[i][d]);
  }
}

// Lays codes into one panel.
template <class Scalar>
void DirectPass<Scalar>::pack(int64_t code, int64_t count, Scalar* panel) {
  // Codes a constant stride apart: all on one of the two levels of rows.
  if (in_place_ != nullptr && code + count <= codebook_.inner_rows) {
    const char* first = static_cast<const char*>(codebook_.data) +
                        code * codebook_.inner_stride * in_place_->element_bytes;
    return pack_codes(*in_place_, first, codebook_.inner_stride, count, dim_, panel);
  }
  codes_.resize(count * dim_);
  load_rows(codebook_, code, count, dim_, codes_.data());
  pack_codes(kernels_.from_fp64, codes_.data(), dim_, count, dim_, panel);
}

template class DirectPass<float>;
template class DirectPass<double>;

}  // namespace vqgan_fast
