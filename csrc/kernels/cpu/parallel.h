// How a kernel asks for threads without knowing whose they are.
#pragma once

#include <cstdint>
#include <functional>

namespace vqgan_fast {

using RangeBody = std::function<void(int64_t begin, int64_t end)>;

struct Parallel {
  // Threads that `run` has to offer; it only guides how work is cut, never what comes out.
  int num_threads = 1;
  // Calls body on disjoint ranges that cover [begin, end), each at least `grain` long unless it is
  // the last one, and returns when all are done.
  std::function<void(int64_t begin, int64_t end, int64_t grain, const RangeBody& body)> run =
      [](int64_t begin, int64_t end, int64_t, const RangeBody& body) {
        if (begin < end) body(begin, end);
      };
};

}  // namespace vqgan_fast
