#include "kernels/cpu/code_distances.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/code_distances_kernels.h"
#include "kernels/cpu/row_block.h"

namespace vqgan_fast {
namespace {

// Twice what is measured at once: the codes of the younger half are on their way to the cache while
// the older half is measured.
constexpr int kQueue = 2 * kPairsAtOnce;

}  // namespace

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
  Rows codebook;
  int64_t dim;
  const CodeKernels* in_place;
  const CodeKernels& from_fp64;
  int64_t element_bytes = 0;  // of codes that are read in place
  std::vector<double> codes;  // where they cannot be read in place
  int num_queued = 0;
  const double* z[kQueue];
  const void* e[kQueue];
  int64_t code[kQueue];
  Nearest* nearest[kQueue];

  Impl(const Rows& codebook, int64_t dim, const CodeDistanceKernels& kernels)
      : codebook(codebook),
        dim(dim),
        in_place(in_place_kernels(kernels, codebook)),
        from_fp64(kernels.from_fp64),
        codes(in_place == nullptr ? kPairsAtOnce * dim : 0) {
    if (in_place != nullptr) element_bytes = in_place->element_bytes;
  }

  const char* code_in_place(int64_t k) const {
    // Most codebooks have one level of rows, which spares the divisions.
    const int64_t offset = k < codebook.inner_rows ? k * codebook.inner_stride : codebook.offset(k);
    return static_cast<const char*>(codebook.data) + offset * element_bytes;
  }

  // Measures the oldest `count` pairs, at most kPairsAtOnce.
  void measure(int count) {
    for (int i = count; i < kPairsAtOnce; ++i) {
      z[i] = z[0];
      e[i] = e[0];
    }
    double distances[kPairsAtOnce];
    if (in_place != nullptr) {
      in_place->pairs(z, e, dim, distances);
    } else {
      const void* loaded[kPairsAtOnce];
      for (int i = 0; i < kPairsAtOnce; ++i) {
        if (i < count) load_rows(codebook, code[i], 1, dim, codes.data() + i * dim);
        loaded[i] = codes.data() + (i < count ? i : 0) * dim;
      }
      from_fp64.pairs(z, loaded, dim, distances);
    }
    for (int i = 0; i < count; ++i) nearest[i]->offer(distances[i], code[i]);
  }

  void drop_oldest(int count) {
    std::copy(z + count, z + num_queued, z);
    std::copy(e + count, e + num_queued, e);
    std::copy(code + count, code + num_queued, code);
    std::copy(nearest + count, nearest + num_queued, nearest);
    num_queued -= count;
  }
};

PairDistances::PairDistances(const Rows& codebook, int64_t dim, SimdLevel level)
    : impl_(std::make_unique<Impl>(codebook, dim, code_distance_kernels(level))) {}

PairDistances::~PairDistances() = default;

void PairDistances::add(const double* z, int64_t code, Nearest* nearest) {
  Impl& queue = *impl_;
  const int i = queue.num_queued++;
  queue.z[i] = z;
  queue.code[i] = code;
  queue.nearest[i] = nearest;
  if (queue.in_place != nullptr) {
    const char* e = queue.code_in_place(code);
    queue.e[i] = e;
    for (int64_t byte = 0; byte < queue.dim * queue.element_bytes; byte += 64) {
      __builtin_prefetch(e + byte);
    }
  } else {
    prefetch_columns(queue.codebook, code, 0, queue.dim);
  }
  if (queue.num_queued < kQueue) return;
  queue.measure(kPairsAtOnce);
  queue.drop_oldest(kPairsAtOnce);
}

void PairDistances::flush() {
  Impl& queue = *impl_;
  while (queue.num_queued > 0) {
    const int count = std::min(queue.num_queued, kPairsAtOnce);
    queue.measure(count);
    queue.drop_oldest(count);
  }
}

}  // namespace vqgan_fast
