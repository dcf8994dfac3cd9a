// What nearest_code has done in this process: which way it went, and what decided the rows.
#pragma once

#include <atomic>
#include <cstdint>

namespace vqgan_fast {

struct NearestCodeCounters {
  // Calls by the way they went; those with no rows are not counted.
  std::atomic<int64_t> calls_direct{0};
  std::atomic<int64_t> calls_fp32{0};
  std::atomic<int64_t> calls_int16{0};
  std::atomic<int64_t> calls_int8{0};
  std::atomic<int64_t> calls_boxes{0};
  // Calls that screened clusters of codes apart, beside the way they went.
  std::atomic<int64_t> calls_clusters{0};
  // Calls that found the codebook packed by an earlier one.
  std::atomic<int64_t> calls_cached{0};
  // Rows by what decided them; together every row of every call.
  std::atomic<int64_t> rows_screen{0};      // the screen left one code
  std::atomic<int64_t> rows_candidates{0};  // several, measured in fp64
  std::atomic<int64_t> rows_direct{0};      // the direct search in fp32, then fp64
  std::atomic<int64_t> rows_scan{0};        // every code measured in fp64
  std::atomic<int64_t> rows_not_finite{0};  // index 0 and NaN
};

NearestCodeCounters& nearest_code_counters();

}  // namespace vqgan_fast
