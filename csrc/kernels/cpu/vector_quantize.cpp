#include "kernels/cpu/vector_quantize.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/codebook_stats.h"
#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/nearest_code.h"
#include "kernels/cpu/row_block.h"

namespace vqgan_fast {
namespace {

constexpr int64_t kBlockRows = 64;

// z[i] becomes z[i] + (e[i] - z[i]), each step rounded to `dtype`.
void straight_through(DType dtype, int64_t count, const double* e, double* z) {
  switch (dtype) {
    case DType::kFloat64:
      for (int64_t i = 0; i < count; ++i) z[i] += e[i] - z[i];
      return;
    case DType::kFloat32:
      for (int64_t i = 0; i < count; ++i) {
        const float x = static_cast<float>(z[i]);
        z[i] = x + (static_cast<float>(e[i]) - x);
      }
      return;
    default:
      for (int64_t i = 0; i < count; ++i) {
        z[i] = round_to(dtype, z[i] + round_to(dtype, e[i] - z[i]));
      }
  }
}

// Calls body(first_row, num_rows, z, e) on blocks of rows and of the codes they chose, as doubles.
template <class Body>
void for_each_block(const Rows& z, const Rows& codebook, const int64_t* indices, int64_t num_rows,
                    int64_t dim, const Parallel& parallel, const Body& body) {
  const int64_t num_blocks = (num_rows + kBlockRows - 1) / kBlockRows;
  parallel.run(0, num_blocks, 1, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    std::vector<double> z_block(kBlockRows * dim), e_block(kBlockRows * dim);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * kBlockRows;
      const int64_t count = std::min(kBlockRows, num_rows - first);
      load_rows(z, first, count, dim, z_block.data());
      for (int64_t r = 0; r < count; ++r) {
        load_rows(codebook, indices[first + r], 1, dim, e_block.data() + r * dim);
      }
      body(first, count, z_block.data(), e_block.data());
    }
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
  search.exact = args.exact;
  search.indices = args.indices;
  search.distances = distances.data();
  search.distance_dtype = DType::kFloat64;
  nearest_code(search, parallel);

  const DType dtype = promoted(args.z.dtype, args.codebook.dtype);
  for_each_block(args.z, args.codebook, args.indices, args.num_rows, args.dim, parallel,
                 [&](int64_t first, int64_t count, double* z, const double* e) {
                   straight_through(dtype, count * args.dim, e, z);
                   store_rows(args.z_q, first, count, args.dim, z);
                 });
  double sum = 0.0;
  for (const double distance : distances) sum += distance;
  return sum;
}

void vector_quantize_grad_z(const VectorQuantizeBackwardArgs& args, const Rows& grad_z_q,
                            double scale, const Rows& grad_z, const Parallel& parallel) {
  for_each_block(args.z, args.codebook, args.indices, args.num_rows, args.dim, parallel,
                 [&](int64_t first, int64_t count, double* z, double* e) {
                   const int64_t size = count * args.dim;
                   for (int64_t i = 0; i < size; ++i) z[i] = scale * (z[i] - e[i]);
                   if (grad_z_q.data != nullptr) {
                     load_rows(grad_z_q, first, count, args.dim, e);
                     for (int64_t i = 0; i < size; ++i) z[i] += e[i];
                   }
                   store_rows(grad_z, first, count, args.dim, z);
                 });
}

void vector_quantize_grad_codebook(const VectorQuantizeBackwardArgs& args, double scale,
                                   const Rows& grad_codebook, const Parallel& parallel) {
  const RowsByCode groups = group_rows(args.indices, args.num_rows, args.num_codes);
  sum_rows_by_code(
      groups, args.z, args.dim, parallel,
      [&](int64_t code, int64_t first_column, int64_t num_columns, const double* sums) {
        // A code without rows has no gradient, not even one that is NaN.
        double out[kMostColumns] = {};
        const double count = static_cast<double>(groups.count(code));
        if (count > 0) {
          load_columns(args.codebook, code, first_column, num_columns, out);
          for (int64_t d = 0; d < num_columns; ++d) {
            out[d] = scale * (count * out[d] - sums[d]);
          }
        }
        store_columns(grad_codebook, code, first_column, num_columns, out);
      });
}

}  // namespace vqgan_fast
