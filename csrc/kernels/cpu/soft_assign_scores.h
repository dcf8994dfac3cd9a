// The logits of a tile, in the precision that the frame asks for.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/cpu/aligned_memory.h"
#include "kernels/cpu/soft_assign_blocks.h"
#include "kernels/cpu/soft_assign_frame.h"
#include "kernels/cpu/soft_assign_loops.h"

namespace vqgan_fast {

// The side that passes by; `add` is of the logits, and `padding` stands for what is not there.
template <class T>
struct ScoreColumns {
  int64_t dim;
  AlignedArray<T> packed;
  std::vector<T> add;
  std::vector<double> wide_add;

  ScoreColumns(const Rows& rows, int64_t count, int64_t dim, const double* centre,
               const double* add, double padding, bool wide, int panel, const Parallel& parallel)
      : dim(dim),
        packed(pack_columns<T>(rows, count, dim, centre, PackFor::kLogits, panel, parallel)),
        add(padded_columns<T>(add, count, padding)) {
    if (wide) wide_add = padded_columns<double>(add, count, padding);
  }
};

// One thread's tile: products, then logits row by row.
template <class T>
class TileScores {
 public:
  TileScores(const SoftFrame& frame, const SoftAssignLoops<T>& loops,
             const ScoreColumns<T>& columns)
      : frame_(frame), loops_(loops), columns_(columns), tile_(allocate_array<T>(kTile)) {
    if (frame.wide) wide_ = allocate_array<double>(kTile);
  }

  void multiply(const OwnRows<T>& rows, int64_t num_rows, int64_t first, int64_t count) {
    const int64_t dim = columns_.dim;
    const T* packed = columns_.packed.get() + first * dim;
    if (frame_.wide) {
      loops_.multiply_wide(rows.as_given(), dim, num_rows, packed, dim, count / loops_.panel,
                           wide_.get());
    } else {
      loops_.multiply(rows.data(), dim, num_rows, packed, dim, count / loops_.panel, tile_.get());
    }
  }

  // Makes logits of the products of a row; returns the largest.
  double logits(int64_t r, int64_t first, int64_t count, const T* noise) {
    if (frame_.wide) {
      return loops_.logits_wide(wide_row(r), count, frame_.scale, columns_.wide_add.data() + first,
                                noise);
    }
    return loops_.logits(row(r), count, static_cast<T>(frame_.scale), columns_.add.data() + first,
                         noise);
  }

  // Where the logit is, the first one of them.
  int64_t find(int64_t r, int64_t count, double logit) {
    if (frame_.wide) return std::find(wide_row(r), wide_row(r) + count, logit) - wide_row(r);
    return std::find(row(r), row(r) + count, static_cast<T>(logit)) - row(r);
  }

  // Brings a row of logits into T, if it is not; returns how much of `add` is still to be added.
  double narrow(int64_t r, int64_t count, double add) {
    if (!frame_.wide) return add;
    loops_.narrow(wide_row(r), count, add, row(r));
    return 0.0;
  }

  T* row(int64_t r) { return tile_.get() + r * kSoftBlockColumns; }
  T* data() { return tile_.get(); }

 private:
  static constexpr int64_t kTile = kSoftBlockRows * kSoftBlockColumns;
  double* wide_row(int64_t r) { return wide_.get() + r * kSoftBlockColumns; }

  const SoftFrame& frame_;
  const SoftAssignLoops<T>& loops_;
  const ScoreColumns<T>& columns_;
  AlignedArray<T> tile_;
  AlignedArray<double> wide_;
};

}  // namespace vqgan_fast
