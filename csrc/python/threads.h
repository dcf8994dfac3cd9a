// Threads for kernels called without torch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

#include "kernels/cpu/parallel.h"

namespace vqgan_fast {

// Runs a range on up to `num_threads` threads, the caller's among them, started for each range;
// on fewer where the system gives no more.
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
    others.reserve(pieces - 1);
    int64_t next = 1;
    try {
      for (; next < pieces; ++next) others.emplace_back(piece, next);
    } catch (const std::system_error&) {
      // No more threads to be had: the caller's does what is left.
    }
    piece(0);
    for (; next < pieces; ++next) piece(next);
    for (std::thread& thread : others) thread.join();
    for (const std::exception_ptr& error : errors) {
      if (error) std::rethrow_exception(error);
    }
  };
  return parallel;
}

}  // namespace vqgan_fast
