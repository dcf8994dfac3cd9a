// Runs the CPU kernels of a 64-bit ARM build against the definition: the screens that exist, and
// nearest_code as a whole, at every level. Prints what differs; exits with 0 if nothing does.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu/nearest_code.h"
#include "kernels/cpu/nearest_code_oracle.h"
#include "kernels/cpu/nearest_code_screen.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {
namespace {

constexpr int64_t kRows = 41;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::mt19937_64 generator(20261121);

double normal() {
  static std::normal_distribution<double> distribution;
  return distribution(generator);
}

int64_t below(int64_t end) { return std::uniform_int_distribution<int64_t>(0, end - 1)(generator); }

struct Problem {
  int64_t num_codes, dim;
  std::vector<double> z, codebook;  // values of fp32
  std::vector<int64_t> indices;
  std::vector<double> distances;

  double* code(int64_t k) { return codebook.data() + k * dim; }
  const double* code(int64_t k) const { return codebook.data() + k * dim; }
  double* row(int64_t r) { return z.data() + r * dim; }
};

using Change = std::function<void(Problem*)>;

const std::pair<const char*, Change> kCases[] = {
    {"gaussian", [](Problem*) {}},
    {"duplicates",
     [](Problem* p) {
       for (int64_t k = 1; k < p->num_codes; k += 2) {
         std::copy_n(p->code(below(k)), p->dim, p->code(k));
       }
     }},
    {"near ties",
     [](Problem* p) {
       for (int64_t r = 0; r < kRows; ++r) {
         const double* a = p->code(below(p->num_codes));
         const double* b = p->code(below(p->num_codes));
         for (int64_t d = 0; d < p->dim; ++d) p->row(r)[d] = (a[d] + b[d]) / 2;
       }
     }},
    {"clustered",
     [](Problem* p) {
       for (int64_t k = 0; k < p->num_codes; ++k) {
         const double* centre = p->code(k / 16 * 16);
         for (int64_t d = 0; d < p->dim; ++d) p->code(k)[d] = centre[d] + 1e-5 * normal();
       }
     }},
    {"offset",
     [](Problem* p) {
       for (double& x : p->z) x += 1000;
       for (double& x : p->codebook) x += 1000;
     }},
    {"vqgan init",
     [](Problem* p) {
       for (double& x : p->codebook) x *= 1e-4;
     }},
    {"tiny",
     [](Problem* p) {
       for (double& x : p->z) x *= 1e-20;
       for (double& x : p->codebook) x *= 1e-20;
     }},
    {"huge",
     [](Problem* p) {
       for (double& x : p->z) x *= 1e18;
       for (double& x : p->codebook) x *= 1e18;
     }},
    {"mixed norms",
     [](Problem* p) {
       for (int64_t i = 0; i < kRows * p->dim; ++i) p->z[i] *= std::pow(10.0, i / p->dim % 30 - 12);
       for (int64_t i = 0; i < p->num_codes * p->dim; ++i) {
         p->codebook[i] *= std::pow(10.0, i / p->dim % 13 - 6);
       }
     }},
    {"codes that are not finite",
     [](Problem* p) {
       for (int64_t k = 0; k < p->num_codes; k += 3) {
         p->code(k)[below(p->dim)] = k % 2 == 0 ? kInfinity : std::nan("");
       }
     }},
};

Problem make_problem(int64_t num_codes, int64_t dim, const Change& change) {
  Problem p;
  p.num_codes = num_codes;
  p.dim = dim;
  p.z.resize(kRows * dim);
  p.codebook.resize(num_codes * dim);
  for (double& x : p.z) x = normal();
  for (double& x : p.codebook) x = normal();
  change(&p);
  for (double& x : p.z) x = static_cast<float>(x);
  for (double& x : p.codebook) x = static_cast<float>(x);
  p.indices.resize(kRows);
  p.distances.resize(kRows);
  nearest_code_oracle(p.z.data(), p.codebook.data(), kRows, num_codes, dim, p.indices.data(),
                      p.distances.data());
  return p;
}

int failures = 0;

void fail(const Problem& p, const std::string& what, int64_t row) {
  ++failures;
  std::printf("%s: K = %lld, D = %lld, row %lld\n", what.c_str(),
              static_cast<long long>(p.num_codes), static_cast<long long>(p.dim),
              static_cast<long long>(row));
}

void check_screen(const Problem& p, const CodeScreen& screen, const std::string& what) {
  std::vector<RowCandidates> found(kRows);
  screen.worker()->run(p.z.data(), kRows, 0, screen.num_panels(), found.data());
  for (int64_t r = 0; r < kRows; ++r) {
    if (found[r].open) continue;
    const int64_t* begin = found[r].codes;
    const int64_t* end = begin + found[r].count;
    if (std::find(begin, end, p.indices[r]) == end) fail(p, what + " misses", r);
    for (const int64_t* k = begin; k != end; ++k) {
      const bool known = *k >= 0 && *k < p.num_codes;
      if (!known ||
          !std::all_of(p.code(*k), p.code(*k) + p.dim, [](double x) { return std::isfinite(x); })) {
        fail(p, what + " leaves a code that is none", r);
      }
    }
  }
}

void check_nearest_code(const Problem& p, const std::string& what) {
  std::vector<int64_t> indices(kRows);
  std::vector<double> distances(kRows);
  NearestCodeArgs args;
  args.z = contiguous_rows(p.z.data(), DType::kFloat64, kRows, p.dim);
  args.codebook = contiguous_rows(p.codebook.data(), DType::kFloat64, p.num_codes, p.dim);
  args.num_rows = kRows;
  args.num_codes = p.num_codes;
  args.dim = p.dim;
  args.indices = indices.data();
  args.distances = distances.data();
  args.distance_dtype = DType::kFloat64;
  nearest_code(args, Parallel());
  for (int64_t r = 0; r < kRows; ++r) {
    const bool same =
        distances[r] == p.distances[r] || (std::isnan(distances[r]) && std::isnan(p.distances[r]));
    if (indices[r] != p.indices[r] || !same) fail(p, what, r);
  }
}

// Puts a level in force, and returns its name.
std::string force(SimdLevel level) {
  const std::string name = simd_level_name(level);
  setenv("VQGAN_FAST_ISA", name.c_str(), 1);
  return name;
}

// The number of screens that there are for these codes at a level; each is checked.
int check_screens(const Problem& p, SimdLevel level, const std::string& what) {
  using Make = decltype(&make_screen_fp32);
  const std::pair<const char*, Make> screens[] = {
#ifdef HAS_SCREEN_FP32
      {"screen_fp32", make_screen_fp32},
#endif
#ifdef HAS_SCREEN_INT16
      {"screen_int16", make_screen_int16},
#endif
#ifdef HAS_SCREEN_BOXES
      {"screen_boxes", make_screen_boxes},
#endif
      {"", nullptr},
  };
  const Rows codebook = contiguous_rows(p.codebook.data(), DType::kFloat64, p.num_codes, p.dim);
  int screened = 0;
  for (const auto& [name, make] : screens) {
    if (make == nullptr) continue;
    const auto screen = make(codebook, p.num_codes, p.dim, level, Parallel());
    if (screen == nullptr) continue;
    ++screened;
    check_screen(p, *screen, what + ", " + name);
  }
  return screened;
}

}  // namespace
}  // namespace vqgan_fast

int main() {
  using namespace vqgan_fast;
  constexpr SimdLevel kLevels[] = {SimdLevel::kBaseline, SimdLevel::kNeon};
  std::map<std::string, int> screened;
  for (const auto& [data, change] : kCases) {
    for (const int64_t dim : {1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 64, 100, 256}) {
      for (const int64_t num_codes : {1, 15, 16, 17, 65, 300}) {
        // Made once for both: in an emulator, random numbers and the definition take the most time.
        const Problem p = make_problem(num_codes, dim, change);
        for (const SimdLevel level : kLevels) {
          const std::string name = force(level), what = name + ", " + data;
          check_nearest_code(p, what + ", nearest_code");
          screened[name] += check_screens(p, level, what);
        }
      }
    }
  }
  for (const auto& [name, count] : screened) {
    std::printf("%s: %d codebooks screened\n", name.c_str(), count);
  }
  return failures == 0 ? 0 : 1;
}
