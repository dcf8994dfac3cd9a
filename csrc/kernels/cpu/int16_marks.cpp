// Where many codes are as near as quantising lets one see: all that are within a row's limit.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/int16_worker.h"

namespace vqgan_fast {
namespace {

// Marked codes are measured if they are at most so many, and at most one in one_in(..) of all. From
// there on the direct search, which takes codes as they lie, is faster than measuring them one by
// one: the sooner, the shorter they are; beside products of bytes, late.
constexpr int64_t kMostMarked = 1024;
int64_t one_in(Int16Layout layout, int64_t dim) {
  return layout == Int16Layout::kBytes ? 8 : 8 + 256 / dim;
}
// Vectors of codes whose marks are kept until they are looked at.
constexpr int64_t kMarkedVectors = 64;

}  // namespace

void Int16Worker::mark(int64_t first_panel, int64_t num_panels, RowCandidates* out) {
  const int64_t num_codes = num_panels * codebook_.panel_codes;
  const int64_t most = std::clamp<int64_t>(num_codes / one_in(kernels_.layout, codebook_.dim),
                                           4 * RowCandidates::kMost, kMostMarked);
  int32_t limits[CodeScreen::kMostRows];
  bool wanted[CodeScreen::kMostRows];
  for (int64_t r = 0; r < num_rows_; ++r) {
    RowCandidates& row = out[rows_[r].number];
    limits[r] = rows_[r].limit;
    wanted[r] = row.open || row.count == 0;
    if (wanted[r]) row.open = false;
  }
  const int64_t segment = kMarkedVectors / kernels_.vectors;
  for (int64_t p = 0; p < num_panels; p += segment) {
    marks_.assign(num_rows_ * kMarkedVectors, 0);
    for_each_tile(
        first_panel + p, std::min(segment, num_panels - p), [&](Int16Tile* tile, int64_t r) {
          const bool* of_tile = wanted + r;
          if (std::find(of_tile, of_tile + tile->num_rows, true) == of_tile + tile->num_rows) {
            return;
          }
          tile->limits = limits + r;
          tile->marks = marks_.data() + r * kMarkedVectors + tile->first_tag;
          tile->marks_stride = kMarkedVectors;
          kernels_.mark(*tile);
        });
    for (int64_t r = 0; r < num_rows_; ++r) {
      if (!wanted[r]) continue;
      RowCandidates& row = out[rows_[r].number];
      take_marks(marks_.data() + r * kMarkedVectors, (first_panel + p) * codebook_.panel_codes,
                 &row.many);
      if (static_cast<int64_t>(row.many.size()) <= most) continue;
      std::vector<int64_t>().swap(row.many);
      row.open = true;
      wanted[r] = false;
    }
  }
  for (int64_t r = 0; r < num_rows_; ++r) {
    if (!wanted[r]) continue;
    RowCandidates& row = out[rows_[r].number];
    const auto is_none = [&](int64_t k) { return codebook_.norms[k] == kInt16NoCode; };
    row.open = std::any_of(row.many.begin(), row.many.end(), is_none);
    if (row.open) row.many.clear();
    if (row.many.size() > RowCandidates::kMost) continue;
    row.count = static_cast<int>(row.many.size());
    std::copy(row.many.begin(), row.many.end(), row.codes);
    row.many.clear();
  }
}

// Appends the codes that kMarkedVectors marks of a row stand for, the first of which is first_code.
void Int16Worker::take_marks(const uint16_t* marks, int64_t first_code,
                             std::vector<int64_t>* codes) const {
  constexpr int64_t kAtOnce = sizeof(uint64_t) / sizeof(uint16_t);
  for (int64_t v = 0; v < kMarkedVectors; v += kAtOnce) {
    uint64_t any;
    std::memcpy(&any, marks + v, sizeof any);
    if (any == 0) continue;
    for (int64_t i = v; i < v + kAtOnce; ++i) {
      for (uint32_t bits = marks[i]; bits != 0; bits &= bits - 1) {
        codes->push_back(first_code + i * kernels_.lanes + __builtin_ctz(bits));
      }
    }
  }
}

}  // namespace vqgan_fast
