// Threads for kernels called without torch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

#include "kernels/cpu/parallel.h"

namespace vqgan_fast {

// Runs a range on up to `num_threads` threads, the caller's among them, started for each range.
inline Parallel std_threads(int64_t num_threads) {
  Parallel parallel;
  if (num_threads <= 1) return parallel;
  parallel.num_threads = static_cast<int>(num_threads);
  parallel.run = [num_threads](int64_t begin, int64_t end, int64_t grain, const RangeBody& body) {
    const int64_t length = std::max<int64_t>(end - begin, 0);
    const int64_t pieces = std::min(num_threads, length / std::max<int64_t>(grain, 1));
    if (pieces <= 1) {
      if (length > 0) body(begin, end);
      return;
    }
    std::vector<std::exception_ptr> errors(pieces);
    const auto piece = [&](int64_t i) {
      try {
        body(begin + length * i / pieces, begin + length * (i + 1) / pieces);
      } catch (...) {
        errors[i] = std::current_exception();
      }
    };
    std::vector<std::thread> others;
    for (int64_t i = 1; i < pieces; ++i) others.emplace_back(piece, i);
    piece(0);
    for (std::thread& thread : others) thread.join();
    for (const std::exception_ptr& error : errors) {
      if (error) std::rethrow_exception(error);
    }
  };
  return parallel;
}

}  // namespace vqgan_fast
