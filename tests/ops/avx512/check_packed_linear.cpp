// packed_linear at the AVX-512 level, against the baseline: the same bits for every type of
// weights, number of rows and end of a row.
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "checks.h"
#include "kernels/cpu/packed_linear.h"

namespace vqgan_fast {
namespace {

std::mt19937_64 generator(20261128);

std::vector<float> normals(int64_t count) {
  std::normal_distribution<float> distribution;
  std::vector<float> numbers(count);
  for (float& x : numbers) x = distribution(generator);
  return numbers;
}

// Weights of any kind fill panels, in whatever order they lie there.
std::vector<char> random_weights(WeightType type, int64_t count) {
  const std::vector<float> numbers = normals(count);
  std::vector<char> bytes(count * sizeof(float));
  for (int64_t i = 0; i < count; ++i) {
    if (type == WeightType::kInt8) {
      bytes[i] = static_cast<char>(generator());
    } else if (type == WeightType::kBFloat16) {
      std::memcpy(&bytes[2 * i], reinterpret_cast<const char*>(&numbers[i]) + 2, 2);
    } else {
      std::memcpy(&bytes[4 * i], &numbers[i], 4);
    }
  }
  return bytes;
}

int check(WeightType type, int64_t rows, int64_t outputs, int64_t dim, bool epilogue) {
  const int64_t padded = (outputs + kPanel - 1) / kPanel * kPanel;
  const auto x = normals(rows * dim), bias = normals(outputs), scales = normals(outputs);
  const auto residual = normals(rows * outputs);
  const auto weights = random_weights(type, padded * dim);
  std::vector<float> found[2];
  PackedLinearArgs args;
  args.x = x.data();
  args.rows = rows;
  args.dim = dim;
  args.weight = weights.data();
  args.type = type;
  args.outputs = outputs;
  if (type == WeightType::kInt8) args.scales = scales.data();
  if (epilogue) {
    args.bias = bias.data();
    args.gelu = true;
    args.residual = residual.data();
  }
  for (const bool emulated : {false, true}) {
    found[emulated].resize(rows * outputs);
    args.y = found[emulated].data();
    packed_linear(args, emulated ? SimdLevel::kAvx512 : SimdLevel::kBaseline, Parallel());
  }
  if (std::memcmp(found[0].data(), found[1].data(), rows * outputs * sizeof(float)) == 0) return 0;
  std::printf("packed_linear, weights of type %d: R = %lld, N = %lld, K = %lld\n",
              static_cast<int>(type), static_cast<long long>(rows), static_cast<long long>(outputs),
              static_cast<long long>(dim));
  return 1;
}

}  // namespace
}  // namespace vqgan_fast

int check_packed_linear() {
  using namespace vqgan_fast;
  struct Size {
    int64_t outputs, dim;
  };
  constexpr Size kSizes[] = {{1, 1}, {33, 64}, {31, 63}, {70, 65}, {96, 200}};
  int failures = 0;
  for (const auto type : {WeightType::kFloat32, WeightType::kBFloat16, WeightType::kInt8}) {
    for (const auto& [outputs, dim] : kSizes) {
      // To 12 as they come, from 13 on in tiles of 7 to 12, from 49 on in several blocks.
      for (int64_t rows = 1; rows <= 24; ++rows) {
        failures += check(type, rows, outputs, dim, (rows + dim) % 2 == 0);
      }
      failures += check(type, 101, outputs, dim, true);
    }
    failures += check(type, 485, 33, 5, false);  // more rows than are copied at a time
  }
  return failures;
}
