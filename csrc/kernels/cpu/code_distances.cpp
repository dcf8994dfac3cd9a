#include "kernels/cpu/code_distances.h"

#include <utility>
#include <vector>

#include "kernels/cpu/code_distances_kernels.h"
#include "kernels/cpu/row_block.h"

namespace vqgan_fast {
const CodeDistanceKernels& code_distance_kernels(SimdLevel level) {
#ifdef VQGAN_FAST_HAS_CODE_DISTANCES_AVX512
  if (level >= SimdLevel::kAvx512) return kCodeDistancesAvx512;
#endif
#ifdef VQGAN_FAST_HAS_CODE_DISTANCES_AVX2
  if (level >= SimdLevel::kAvx2) return kCodeDistancesAvx2;
#endif
  static_cast<void>(level);
  return kCodeDistancesBaseline;
}

const CodeKernels* in_place_kernels(const CodeDistanceKernels& kernels, const Rows& codebook) {
  const CodeKernels* found = nullptr;
  switch (codebook.dtype) {
    case DType::kFloat32:
      found = &kernels.from_fp32;
      break;
    case DType::kFloat64:
      found = &kernels.from_fp64;
      break;
    case DType::kBFloat16:
      found = &kernels.from_bf16;
      break;
    case DType::kFloat16:
      found = &kernels.from_fp16;
      break;
  }
  return codebook.element_stride == 1 && found->pairs != nullptr ? found : nullptr;
}

struct PairDistances::Impl {
  // While one half of the queue is measured, the codes of the other are on their way to the cache.
  struct Half {
    const double* z[kPairsAtOnce];
    const void* e[kPairsAtOnce];
    Nearest* nearest[kPairsAtOnce];
    int64_t code[kPairsAtOnce];
  };

  const Rows codebook;
  const int64_t dim;
  const CodeKernels* const in_place;
  const CodeKernels& from_fp64;
  const char* const data;
  const int64_t element_bytes;  // of codes that are read in place
  const int64_t stride_bytes;   // from code to code on the inner level of rows
  const int64_t code_bytes;
  std::vector<double> codes;  // where they cannot be read in place
  Half halves[2];
  Half* filling = halves;
  Half* waiting = halves + 1;
  int64_t count = 0;  // of pairs in `filling`
  bool waiting_full = false;

  Impl(const Rows& codebook, int64_t dim, const CodeDistanceKernels& kernels)
      : codebook(codebook),
        dim(dim),
        in_place(in_place_kernels(kernels, codebook)),
        from_fp64(kernels.from_fp64),
        data(static_cast<const char*>(codebook.data)),
        element_bytes(in_place != nullptr ? in_place->element_bytes : 0),
        stride_bytes(codebook.inner_stride * element_bytes),
        code_bytes(dim * element_bytes),
        codes(in_place == nullptr ? kPairsAtOnce * dim : 0) {}

  void add(const double* z, int64_t code, Nearest* nearest) {
    filling->z[count] = z;
    filling->nearest[count] = nearest;
    filling->code[count] = code;
    if (in_place != nullptr) {
      // Most codebooks have one level of rows, which spares the divisions.
      const char* e = data + (code < codebook.inner_rows ? code * stride_bytes
                                                         : codebook.offset(code) * element_bytes);
      filling->e[count] = e;
      for (int64_t byte = 0; byte < code_bytes; byte += 64) __builtin_prefetch(e + byte);
    } else {
      prefetch_columns(codebook, code, 0, dim);
    }
    if (++count == kPairsAtOnce) take_turns();
  }

  // Not inlined, which keeps add() short.
  [[gnu::noinline]] void take_turns() {
    std::swap(filling, waiting);
    count = 0;
    if (waiting_full) measure(filling, kPairsAtOnce);
    waiting_full = true;
  }

  void flush() {
    if (waiting_full) measure(waiting, kPairsAtOnce);
    if (count > 0) measure(filling, count);
    waiting_full = false;
    count = 0;
  }

  void measure(Half* half, int64_t num_pairs) {
    if (in_place == nullptr) {
      for (int i = 0; i < num_pairs; ++i) {
        load_rows(codebook, half->code[i], 1, dim, codes.data() + i * dim);
        half->e[i] = codes.data() + i * dim;
      }
    }
    for (int i = num_pairs; i < kPairsAtOnce; ++i) {
      half->z[i] = half->z[0];
      half->e[i] = half->e[0];
    }
    double distances[kPairsAtOnce];
    (in_place != nullptr ? *in_place : from_fp64)
        .pairs(half->z, half->e, static_cast<int>(num_pairs), dim, distances);
    for (int i = 0; i < num_pairs; ++i) half->nearest[i]->offer(distances[i], half->code[i]);
  }
};

PairDistances::PairDistances(const Rows& codebook, int64_t dim, SimdLevel level)
    : impl_(std::make_unique<Impl>(codebook, dim, code_distance_kernels(level))) {}

PairDistances::~PairDistances() = default;

void PairDistances::add(const double* z, int64_t code, Nearest* nearest) {
  impl_->add(z, code, nearest);
}

void PairDistances::flush() { impl_->flush(); }

}  // namespace vqgan_fast
