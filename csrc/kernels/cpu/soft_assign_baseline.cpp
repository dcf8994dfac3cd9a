// The level that every CPU runs, on the compiler's own 16-byte vectors (SSE2 on x86-64), and fp64,
// where each function is the standard library's.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/soft_assign_tiles.h"

namespace vqgan_fast {
namespace {

struct Vectors16 : Fp32Vectors<16> {
  static Vector broadcast(float x) { return Vector{x, x, x, x}; }
  static Vector multiply_add(Vector a, Vector b, Vector c) { return a * b + c; }
  static Vector max(Vector a, Vector b) { return a > b ? a : b; }
  static void multiply_words(Words words, uint32_t factor, Words* high, Words* low) {
    uint32_t halves[2][kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const uint64_t product = static_cast<uint64_t>(words[i]) * factor;
      halves[0][i] = static_cast<uint32_t>(product >> 32);
      halves[1][i] = static_cast<uint32_t>(product);
    }
    std::memcpy(high, halves[0], sizeof *high);
    std::memcpy(low, halves[1], sizeof *low);
  }
};

struct Fp64 {
  static constexpr int kLanes = 2;
  static constexpr double kLeastLog = -746.0;
  using Scalar = double;
  using Noise = double;
  typedef double Vector __attribute__((vector_size(16)));

  static Vector load(const double* p) { return Vector{p[0], p[1]}; }
  static void store(double* p, Vector v) {
    p[0] = v[0];
    p[1] = v[1];
  }
  static Vector broadcast(double x) { return Vector{x, x}; }
  static Vector multiply_add(Vector a, Vector b, Vector c) { return a * b + c; }
  static Vector max(Vector a, Vector b) { return a > b ? a : b; }
};

// fp64 for the logits of fp32 numbers.
struct Vectors16Wide : Fp64 {
  using Noise = float;
  using Fp64::load;
  static Vector load(const float* p) { return Vector{p[0], p[1]}; }
  static void store_narrow(float* p, Vector v) {
    p[0] = static_cast<float>(v[0]);
    p[1] = static_cast<float>(v[1]);
  }
};

template <>
inline Fp64::Vector exponential<Fp64>(Fp64::Vector x) {
  return Fp64::Vector{std::exp(x[0]), std::exp(x[1])};
}

double gumbel_of(uint32_t word) {
  return -std::log(-std::log((static_cast<double>(word) + 0.5) * 0x1p-32));
}

void fp64_noise_of_codes(uint64_t seed, uint64_t row, uint64_t first, int64_t n, double scale,
                         double* out) {
  for (int64_t j = 0; j < n; j += 16) {
    const auto group = static_cast<uint32_t>((first + static_cast<uint64_t>(j)) / 4);
    const Vectors16::Words zero = {};
    Vectors16::Words words[4] = {lane_numbers<Vectors16>() + group,
                                 zero + static_cast<uint32_t>(row),
                                 zero + static_cast<uint32_t>(row >> 32), zero};
    philox(words, seed, Vectors16::multiply_words);
    for (int i = 0; i < 16; ++i) out[j + i] = scale * gumbel_of(words[i % 4][i / 4]);
  }
}

void fp64_noise_of_rows(uint64_t seed, uint64_t first, uint64_t row, int64_t n, double scale,
                        double* out) {
  for (int64_t j = 0; j < n; j += 4) {
    const Vectors16::Words zero = {};
    Vectors16::Words words[4] = {zero + static_cast<uint32_t>(first / 4),
                                 lane_numbers<Vectors16>() + static_cast<uint32_t>(row + j),
                                 zero + static_cast<uint32_t>(row >> 32), zero};
    philox(words, seed, Vectors16::multiply_words);
    for (int i = 0; i < 16; ++i) {
      out[i % 4 * kSoftBlockColumns + j + i / 4] = scale * gumbel_of(words[i % 4][i / 4]);
    }
  }
}

}  // namespace

const SoftAssignLoops<float> kSoftAssignBaseline = kLoops<Vectors16, Vectors16Wide, 2, 4>;

const SoftAssignLoops<double> kSoftAssignFp64 = {
    8,
    multiply<Fp64, 2, 4>,
    multiply_panels<Fp64, 2, 4, true>,
    nullptr,  // it is wide already
    logits<Fp64>,
    nullptr,
    nullptr,
    exponentials<Fp64, Fp64>,
    rescale<Fp64>,
    probabilities<Fp64, Fp64>,
    gradients<Fp64>,
    fp64_noise_of_codes,
    fp64_noise_of_rows,
};

}  // namespace vqgan_fast
