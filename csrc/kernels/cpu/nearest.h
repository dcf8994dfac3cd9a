// The nearest code found for a row so far.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace vqgan_fast {

struct Nearest {
  double distance = std::numeric_limits<double>::quiet_NaN();  // by the definition
  int64_t index = -1;                                          // negative: none

  // Codes may come in any order: the lowest of equals stays. A NaN distance is never taken.
  void offer(double candidate, int64_t code) {
    if (candidate < distance || (index < 0 && !std::isnan(candidate)) ||
        (candidate == distance && code < index)) {
      distance = candidate;
      index = code;
    }
  }
};

}  // namespace vqgan_fast
