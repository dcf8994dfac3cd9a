// How a search of rows among codes is cut into tasks, and shared between threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/parallel.h"

namespace vqgan_fast {

// A grid of tasks: blocks of rows by parts of the codebook. The codebook is cut only where the
// blocks alone would leave threads without work.
struct RowTasks {
  // Blocks have a multiple of kRowStep rows: the least common one of what the screens take at once,
  // except for tiles of 16 rows, some of which are then not full.
  static constexpr int64_t kRowStep = 24;
  // Tasks for each thread even out that some cost more.
  static constexpr int64_t kTasksPerThread = 8;
  // Fewer codes than this are not worth a task of their own.
  static constexpr int64_t kLeastPartCodes = 512;

  int64_t num_rows, block_rows, num_blocks;
  // Blocks from this one on have a quarter of the rows: no thread has long to wait at the end.
  int64_t first_small, small_rows;
  int64_t num_units, part_units, num_parts;

  // The codebook is cut at units of unit_codes codes; blocks have at most most_block_rows rows, a
  // multiple of kRowStep.
  RowTasks(int64_t rows, int64_t units, int64_t unit_codes, int64_t num_threads,
           int64_t most_block_rows)
      : num_rows(rows), block_rows(most_block_rows), num_units(units), num_parts(1) {
    if (num_threads > 1) {
      const int64_t even = rows / (kTasksPerThread * num_threads) + 1;
      block_rows = std::min((even + kRowStep - 1) / kRowStep * kRowStep, most_block_rows);
    }
    num_blocks = (rows + block_rows - 1) / block_rows;
    if (num_blocks < 2 * num_threads && num_threads > 1) {
      const int64_t least_units = std::max<int64_t>(1, kLeastPartCodes / unit_codes);
      num_parts = std::clamp<int64_t>((2 * num_threads + num_blocks - 1) / num_blocks, 1,
                                      std::max<int64_t>(1, units / least_units));
    }
    part_units = (units + num_parts - 1) / num_parts;
    num_parts = (units + part_units - 1) / part_units;
    first_small = num_blocks;
    small_rows = (block_rows / 4 + kRowStep - 1) / kRowStep * kRowStep;
    if (num_threads > 1 && num_parts == 1) {
      first_small = std::max<int64_t>(0, num_blocks - 1 - num_threads);
      num_blocks = first_small + (rows - first_small * block_rows + small_rows - 1) / small_rows;
    }
  }

  int64_t count() const { return num_blocks * num_parts; }
  // Rows of the largest task.
  int64_t most_rows() const { return std::min(block_rows, num_rows); }
  // Of task t: its block, its part, and what they hold.
  int64_t part(int64_t t) const { return t % num_parts; }
  int64_t first_row(int64_t t) const {
    const int64_t block = t / num_parts;
    return std::min(block, first_small) * block_rows +
           std::max<int64_t>(0, block - first_small) * small_rows;
  }
  int64_t rows(int64_t t) const {
    const int64_t most = t / num_parts < first_small ? block_rows : small_rows;
    return std::min(most, num_rows - first_row(t));
  }
  int64_t first_unit(int64_t t) const { return part(t) * part_units; }
  int64_t last_unit(int64_t t) const { return std::min(first_unit(t) + part_units, num_units); }
};

// Threads worth waking for a search.
inline int64_t useful_threads(int64_t num_rows, int64_t num_codes, int64_t dim,
                              const Parallel& parallel) {
  constexpr double kThreadProducts = 1e6;  // some ten microseconds
  const double products = static_cast<double>(num_rows) * num_codes * dim;
  return static_cast<int64_t>(
      std::clamp<double>(products / kThreadProducts, 1.0, parallel.num_threads));
}

// Runs body(next) on up to num_threads threads; next() hands out 0 .. num_tasks - 1 and then -1, so
// that a thread which is done takes what is left.
template <class Body>
void share_tasks(int64_t num_tasks, int64_t num_threads, const Parallel& parallel,
                 const Body& body) {
  std::atomic<int64_t> taken{0};
  const auto next = [&]() -> int64_t {
    const int64_t task = taken.fetch_add(1, std::memory_order_relaxed);
    return task < num_tasks ? task : -1;
  };
  parallel.run(0, std::min(num_threads, num_tasks), 1, [&](int64_t, int64_t) {
    const DefaultFloatMode float_mode;
    body(next);
  });
}

}  // namespace vqgan_fast
