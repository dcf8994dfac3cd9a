// The level that every CPU runs, on the compiler's own 16-byte vectors (SSE2, NEON, ...).
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/nearest_code_kernels.h"

namespace vqgan_fast {
namespace {

using Float4 = float __attribute__((vector_size(16)));

constexpr int kTileRows = 2;
constexpr int kLanes = 4;
constexpr int kVectors = kPanelCodes / kLanes;

Float4 load(const float* p) {
  Float4 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

void screen(const float* z, int64_t dim, const float* panels, const float* half_norms,
            int64_t num_panels, int64_t first_code, RowScreen* const* rows) {
  for (int64_t p = 0; p < num_panels; ++p) {
    const float* panel = panels + p * dim * kPanelCodes;
    Float4 score[kTileRows][kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const Float4 half_norm = load(half_norms + p * kPanelCodes + v * kLanes);
      for (int r = 0; r < kTileRows; ++r) score[r][v] = half_norm;
    }
    for (int64_t d = 0; d < dim; ++d) {
      for (int v = 0; v < kVectors; ++v) {
        const Float4 e = load(panel + d * kPanelCodes + v * kLanes);
        for (int r = 0; r < kTileRows; ++r) score[r][v] -= e * z[d * kTileRows + r];
      }
    }
    for (int r = 0; r < kTileRows; ++r) {
      const float limit = rows[r]->limit;
      auto near = score[r][0] <= limit;
      for (int v = 1; v < kVectors; ++v) near |= score[r][v] <= limit;
      int64_t halves[2];
      std::memcpy(halves, &near, sizeof halves);
      if ((halves[0] | halves[1]) == 0) continue;
      float scores[kPanelCodes];
      std::memcpy(scores, score[r], sizeof scores);
      keep_candidates(rows[r], scores, first_code + p * kPanelCodes);
    }
  }
}

void pair_distances(const double* const* z, const double* const* e, int64_t dim,
                    double* distances) {
  for (int i = 0; i < kPairs; ++i) {
    double acc = 0.0;
    for (int64_t d = 0; d < dim; ++d) {
      const double difference = z[i][d] - e[i][d];
      acc = std::fma(difference, difference, acc);
    }
    distances[i] = acc;
  }
}

void block_distances(const double* const* z, const double* codes, int64_t dim, double* distances) {
  for (int r = 0; r < kDirectRows; ++r) {
    double* acc = distances + r * kDirectCodes;
    for (int lane = 0; lane < kDirectCodes; ++lane) acc[lane] = 0.0;
    for (int64_t d = 0; d < dim; ++d) {
      for (int lane = 0; lane < kDirectCodes; ++lane) {
        const double difference = z[r][d] - codes[d * kDirectCodes + lane];
        acc[lane] = std::fma(difference, difference, acc[lane]);
      }
    }
  }
}

}  // namespace

const NearestCodeKernels kNearestCodeBaseline = {kTileRows, screen, pair_distances,
                                                 block_distances};

}  // namespace vqgan_fast
