// Where the rows of a decode step stand in their caches: the tensors that say so, checked and held.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

#include "kernels/cpu/cache_attention.h"
#include "ops/decode_checks.h"

namespace vqgan_fast::ops {

// On the CPU: every integer lies in [low, high).
inline void check_range(const int64_t* values, const char* name, int64_t rows, int64_t low,
                        int64_t high) {
  for (int64_t row = 0; row < rows; ++row) {
    VQGAN_FAST_CHECK(values[row] >= low && values[row] < high, name, " must lie in [", low, ", ",
                     high, "), got ", values[row], " for row ", row);
  }
}

// Three lines of integers, one number of each for every row.
struct CellTensors {
  Tensor slots, first, second;

  CellTensors(const Tensor& x, int64_t rows, const Tensor& slots_, const Tensor& first_,
              const char* first_name, const Tensor& second_, const char* second_name) {
    check_integers(slots_, "slots", x, rows);
    check_integers(first_, first_name, x, rows);
    check_integers(second_, second_name, x, rows);
    slots = torch::stable::contiguous(slots_);
    first = torch::stable::contiguous(first_);
    second = torch::stable::contiguous(second_);
  }

  WindowCells window() const { return {integers_of(first), integers_of(second)}; }
};

// Positions and ends in slots of `length` entries, on the CPU.
inline void check_window_range(const CellTensors& cells, int64_t rows, int64_t num_slots,
                               int64_t length) {
  check_range(integers_of(cells.slots), "slots", rows, 0, num_slots);
  check_range(integers_of(cells.first), "positions", rows, 0, length);
  check_range(integers_of(cells.second), "ends", rows, 1, length + 1);
}

inline void check_grid_range(const CellTensors& cells, int64_t rows, int64_t num_slots,
                             int64_t width) {
  check_range(integers_of(cells.slots), "slots", rows, 0, num_slots);
  check_range(integers_of(cells.first), "rows", rows, 0, int64_t{1} << 31);
  check_range(integers_of(cells.second), "columns", rows, 0, width);
}

}  // namespace vqgan_fast::ops
