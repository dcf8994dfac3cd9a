// Problems of nearest_code on which a kernel goes wrong easily, and what holds its results against
// the definition: for the programs that run the kernels of an instruction set in an emulator.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu/code_source.h"
#include "kernels/cpu/content_hash.h"
#include "kernels/cpu/nearest_code.h"
#include "kernels/cpu/nearest_code_oracle.h"
#include "kernels/cpu/nearest_code_screen.h"
#include "kernels/cpu/row_block.h"
#include "kernels/cpu/row_loops.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

constexpr int64_t kRows = 41;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

inline std::mt19937_64 generator(20261121);

inline double normal() {
  static std::normal_distribution<double> distribution;
  return distribution(generator);
}

inline int64_t below(int64_t end) {
  return std::uniform_int_distribution<int64_t>(0, end - 1)(generator);
}

struct Problem {
  int64_t num_codes, dim;
  std::vector<double> z, codebook;  // values of fp32, and of the type of the codes
  std::vector<int64_t> indices;
  std::vector<double> distances;
  DType dtype;
  std::vector<char> stored;  // the codebook in that type

  double* code(int64_t k) { return codebook.data() + k * dim; }
  const double* code(int64_t k) const { return codebook.data() + k * dim; }
  double* row(int64_t r) { return z.data() + r * dim; }
  Rows codes() const { return contiguous_rows(stored.data(), dtype, num_codes, dim); }
};

using Change = std::function<void(Problem*)>;

inline const std::pair<const char*, Change> kCases[] = {
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
    {"tight clusters",
     [](Problem* p) {
       for (int64_t k = 0; k < p->num_codes; ++k) {
         const double* centre = p->code(k / 40 * 40);
         for (int64_t d = 0; d < p->dim; ++d) p->code(k)[d] = centre[d] + 1e-5 * normal();
       }
     }},
    {"far rows behind which no code is",  // so that what is no code scores as well as any
     [](Problem* p) {
       std::vector<double> u(p->dim);
       for (double& x : u) x = normal() / std::sqrt(p->dim);
       for (int64_t k = 0; k < p->num_codes; ++k) {
         for (int64_t d = 0; d < p->dim; ++d) p->code(k)[d] = u[d] + 0.02 * normal();
       }
       for (int64_t i = 0; i < 64; ++i) {  // whose mean is the centre
         double* code = p->code(i * p->num_codes / 64);
         for (int64_t d = 0; d < p->dim; ++d) code[d] = 1e-6 * normal();
       }
       for (int64_t r = 0; r < kRows; ++r) {
         for (int64_t d = 0; d < p->dim; ++d) p->row(r)[d] = 1e-3 * normal() - 0x1p18 * u[d];
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

inline Problem make_problem(int64_t num_codes, int64_t dim, DType dtype, const Change& change) {
  Problem p;
  p.num_codes = num_codes;
  p.dim = dim;
  p.dtype = dtype;
  p.z.resize(kRows * dim);
  p.codebook.resize(num_codes * dim);
  for (double& x : p.z) x = normal();
  for (double& x : p.codebook) x = normal();
  change(&p);
  for (double& x : p.z) x = static_cast<float>(x);
  for (double& x : p.codebook) x = static_cast<float>(x);
  p.stored.resize(num_codes * dim * sizeof(double));
  store_rows(p.codes(), 0, num_codes, dim, p.codebook.data());
  load_rows(p.codes(), 0, num_codes, dim, p.codebook.data());
  p.indices.resize(kRows);
  p.distances.resize(kRows);
  nearest_code_oracle(p.z.data(), p.codebook.data(), kRows, num_codes, dim, p.indices.data(),
                      p.distances.data());
  return p;
}

inline int failures = 0;

inline void fail(const Problem& p, const std::string& what, int64_t row) {
  if (++failures > 50) return;
  std::printf("%s: K = %lld, D = %lld, row %lld\n", what.c_str(),
              static_cast<long long>(p.num_codes), static_cast<long long>(p.dim),
              static_cast<long long>(row));
}

inline void check_screen(const Problem& p, const CodeScreen& screen, const std::string& what) {
  std::vector<RowCandidates> found(3 * kRows);
  const auto worker = screen.worker();  // what it sees may decide how it goes on
  for (int64_t time = 0; time < 3; ++time) {
    worker->run(p.z.data(), kRows, 0, screen.num_panels(), found.data() + time * kRows);
  }
  for (int64_t i = 0; i < 3 * kRows; ++i) {
    const int64_t r = i % kRows;
    if (found[i].open) continue;
    std::vector<int64_t> left = found[i].many;
    left.insert(left.end(), found[i].codes, found[i].codes + found[i].count);
    if (std::find(left.begin(), left.end(), p.indices[r]) == left.end()) {
      fail(p, what + " misses", r);
    }
    for (const int64_t k : left) {
      const bool known = k >= 0 && k < p.num_codes;
      if (!known ||
          !std::all_of(p.code(k), p.code(k) + p.dim, [](double x) { return std::isfinite(x); })) {
        fail(p, what + " leaves a code that is none", r);
      }
    }
  }
}

// Of the first num_rows rows.
inline void check_nearest_code(const Problem& p, const std::string& what, int64_t num_rows = kRows,
                               const Parallel& parallel = Parallel()) {
  std::vector<int64_t> indices(num_rows);
  std::vector<double> distances(num_rows);
  NearestCodeArgs args;
  args.z = contiguous_rows(p.z.data(), DType::kFloat64, num_rows, p.dim);
  args.codebook = p.codes();
  args.num_rows = num_rows;
  args.num_codes = p.num_codes;
  args.dim = p.dim;
  args.indices = indices.data();
  args.distances = distances.data();
  args.distance_dtype = DType::kFloat64;
  nearest_code(args, parallel);
  for (int64_t r = 0; r < num_rows; ++r) {
    const bool same =
        distances[r] == p.distances[r] || (std::isnan(distances[r]) && std::isnan(p.distances[r]));
    if (indices[r] != p.indices[r] || !same) fail(p, what, r);
  }
}

// Puts a level in force, and returns its name.
inline std::string force(SimdLevel level) {
  const std::string name = simd_level_name(level);
  setenv("VQGAN_FAST_ISA", name.c_str(), 1);
  return name;
}

// Codes that differ in signs alone, all 65536 of 16 dimensions: a hash without keys may confuse
// many.
inline void check_hashes_of_signs() {
  constexpr int kDim = 16;
  std::set<std::pair<uint64_t, uint64_t>> seen;
  for (int signs = 0; signs < 1 << kDim; ++signs) {
    float code[kDim];
    for (int d = 0; d < kDim; ++d) code[d] = signs >> d & 1 ? -0.25f : 0.25f;
    const ContentHash hash = hash_bytes(reinterpret_cast<const char*>(code), sizeof code);
    seen.emplace(hash.low, hash.high);
  }
  if (seen.size() == size_t{1} << kDim) return;
  ++failures;
  std::printf("%zu hashes of %d codes\n", seen.size(), 1 << kDim);
}

// Every byte of a code counts, whatever its size, and so does nothing else.
inline void check_hashes_of_sizes() {
  for (const int64_t size : {2, 12, 32, 36, 1028, 4096, 4100, 20000, 3000001}) {
    std::vector<char> bytes(size + 8);
    for (char& byte : bytes) byte = static_cast<char>(below(256));
    const ContentHash hash = hash_bytes(bytes.data(), size);
    bool right = true;
    for (int64_t i = 0; i < size + 8; i += i < size - 3000 ? 1 + size / 3000 : 1) {
      bytes[i] ^= 1;
      right &= (hash_bytes(bytes.data(), size) != hash) == (i < size);
      bytes[i] ^= 1;
    }
    if (right) continue;
    ++failures;
    std::printf("hash of %lld bytes\n", static_cast<long long>(size));
  }
}

using MakeScreen = decltype(&make_screen_fp32);

// Whether there is such a screen for these codes at a level; it is checked.
inline bool check_screen(const Problem& p, SimdLevel level, MakeScreen make,
                         const std::string& what) {
  std::vector<char> stored = p.stored;
  const Rows codes = contiguous_rows(stored.data(), p.dtype, p.num_codes, p.dim);
  const ContentTree tree(codes, p.num_codes, p.dim, Parallel());
  ContentCheck content{tree};
  CodeSource source{codes, p.num_codes, p.dim};
  source.check = &content;
  const auto screen = make(source, level, Parallel());
  if (content.changed) fail(p, what + " takes the codes for others", 0);
  if (screen == nullptr) return false;
  check_screen(p, *screen, what);
  stored[below(p.num_codes * p.dim * bytes_of(p.dtype))] ^= 1;
  make(source, level, Parallel());
  if (!content.changed) fail(p, what + " does not see that a code changed", 0);
  return true;
}

}  // namespace vqgan_fast
