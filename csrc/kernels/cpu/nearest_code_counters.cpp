#include "kernels/cpu/nearest_code_counters.h"

namespace vqgan_fast {

NearestCodeCounters& nearest_code_counters() {
  static NearestCodeCounters counters;
  return counters;
}

}  // namespace vqgan_fast
