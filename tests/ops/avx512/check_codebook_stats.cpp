// The sums of rows by code at the AVX-512 level against plain loops, to the bit: every type, whole
// vectors of columns and rows with tails, rows and columns side by side and neither.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "checks.h"
#include "kernels/cpu/code_sums.h"
#include "kernels/cpu/codebook_stats.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {
namespace {

std::mt19937_64 generator(20261201);

struct Layout {
  const char* name;
  int64_t images, run;  // rows: images * run, run of them at a time
  int64_t row_stride, column_stride, image_stride;
};

template <class E>
int check(int64_t dim, int64_t num_codes, const Layout& layout) {
  using Storage = typename E::Storage;
  std::normal_distribution<double> normal;
  const int64_t num_rows = layout.images * layout.run;
  const int64_t size = (layout.images - 1) * layout.image_stride +
                       (layout.run - 1) * layout.row_stride + (dim - 1) * layout.column_stride + 1;
  std::vector<Storage> z(size);
  for (Storage& x : z) x = E::store(normal(generator));
  std::vector<int64_t> indices(num_rows), counts(num_codes), expected_counts(num_codes);
  std::vector<double> exact(num_codes * dim);
  for (int64_t n = 0; n < num_rows; ++n) {
    const auto code = static_cast<int64_t>(generator() % num_codes);
    indices[n] = code;
    ++expected_counts[code];
    const int64_t first = n / layout.run * layout.image_stride + n % layout.run * layout.row_stride;
    for (int64_t c = 0; c < dim; ++c) {
      exact[code * dim + c] += E::load(z[first + c * layout.column_stride]);
    }
  }
  const Rows rows{
      z.data(), E::kType, layout.run, layout.image_stride, layout.row_stride, layout.column_stride};
  std::vector<Storage> sums(num_codes * dim), expected(num_codes * dim);
  for (int64_t i = 0; i < num_codes * dim; ++i) expected[i] = E::store(exact[i]);
  codebook_stats(rows, indices.data(), num_rows, num_codes, dim, counts.data(), E::kType,
                 sums.data(), Parallel());
  if (counts == expected_counts &&
      std::memcmp(sums.data(), expected.data(), sums.size() * sizeof(Storage)) == 0) {
    return 0;
  }
  std::printf("codebook_stats differs: type %d, N = %lld, K = %lld, D = %lld, %s\n",
              static_cast<int>(E::kType), static_cast<long long>(num_rows),
              static_cast<long long>(num_codes), static_cast<long long>(dim), layout.name);
  return 1;
}

template <class E>
int check_gradients(int64_t columns) {
  using Storage = typename E::Storage;
  std::normal_distribution<double> normal;
  constexpr int64_t kGroups = 5, kCodes = 9;
  const int64_t codes[kGroups] = {0, 1, 4, 7, 8}, first[kGroups + 1] = {0, 1, 4, 5, 15, 16};
  std::vector<double> sums(kGroups * columns);
  for (double& x : sums) x = normal(generator);
  std::vector<Storage> codebook(kCodes * columns), found(kCodes * columns);
  for (Storage& x : codebook) x = E::store(normal(generator));
  std::vector<Storage> expected = found;
  const double scale = 0.375;
  for (int64_t g = 0; g < kGroups; ++g) {
    for (int64_t c = 0; c < columns; ++c) {
      const double count = static_cast<double>(first[g + 1] - first[g]);
      const double product = count * E::load(codebook[codes[g] * columns + c]);
      expected[codes[g] * columns + c] = E::store(scale * (product - sums[g * columns + c]));
    }
  }
  code_sums(simd_level())
      .store_gradients[static_cast<int>(E::kType)](sums.data(), codes, first, kGroups, columns,
                                                   scale, codebook.data(), columns, found.data(),
                                                   columns);
  if (std::memcmp(found.data(), expected.data(), found.size() * sizeof(Storage)) == 0) return 0;
  std::printf("store_gradients differs: type %d, %lld columns\n", static_cast<int>(E::kType),
              static_cast<long long>(columns));
  return 1;
}

template <class E>
int check_type() {
  int failures = 0;
  for (const int64_t dim : {1, 3, 4, 7, 8, 12, 16, 23, 64, 150}) {
    failures += check_gradients<E>(dim);
    for (const int64_t num_codes : {1, 20, 300}) {
      for (const int64_t run : {1, 6, 16, 100}) {
        for (const Layout& layout : {
                 Layout{"rows", 1, 3 * run, dim, 1, 0},
                 Layout{"rows in runs", 3, run, dim, 1, (run + 2) * dim},
                 Layout{"images", 3, run, 1, run, run * dim},
                 Layout{"every second column", 3, run, 2 * dim, 2, 2 * run * dim},
             }) {
          failures += check<E>(dim, num_codes, layout);
        }
      }
    }
  }
  return failures;
}

}  // namespace
}  // namespace vqgan_fast

int check_codebook_stats() {
  using namespace vqgan_fast;
  setenv("VQGAN_FAST_ISA", simd_level_name(SimdLevel::kAvx512), 1);
  return check_type<Fp32>() + check_type<Fp64>() + check_type<Bf16>() + check_type<Fp16>();
}
