// Runs the CPU kernels of a 64-bit ARM build against the definition: the screens that exist, and
// nearest_code as a whole, at every level that the CPU has. Prints what differs; exits with 0 if
// nothing does.
#include <cstdio>
#include <map>
#include <string>
#include <utility>

#include "../search_problems.h"

namespace vqgan_fast {
namespace {

// The number of screens that there are for these codes at a level; each is checked.
int check_screens(const Problem& p, SimdLevel level, const std::string& what) {
  const std::pair<const char*, MakeScreen> screens[] = {
#ifdef HAS_SCREEN_FP32
      {"screen_fp32", make_screen_fp32},
#endif
#ifdef HAS_SCREEN_INT16
      {"screen_int16", make_screen_int16},
#endif
#ifdef HAS_SCREEN_INT8
      {"screen_int8", make_screen_int8},
#endif
#ifdef HAS_SCREEN_BOXES
      {"screen_boxes", make_screen_boxes},
#endif
      {"", nullptr},
  };
  int screened = 0;
  for (const auto& [name, make] : screens) {
    if (make != nullptr) screened += check_screen(p, level, make, what + ", " + name);
  }
  return screened;
}

}  // namespace
}  // namespace vqgan_fast

int main() {
  using namespace vqgan_fast;
  std::map<std::string, int> screened;
  for (const auto& [data, change] : kCases) {
    for (const int64_t dim : {1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 64, 100, 256}) {
      for (const int64_t num_codes : {1, 15, 16, 17, 65, 300}) {
        // Made once for both: in an emulator, random numbers and the definition take the most time.
        const Problem p = make_problem(num_codes, dim, DType::kFloat64, change);
        for (const SimdLevel level : cpu_simd_levels()) {
          const std::string name = force(level), what = name + ", " + data;
          check_nearest_code(p, what + ", nearest_code");
          screened[name] += check_screens(p, level, what);
        }
      }
    }
  }
  check_hashes_of_sizes();
  for (const auto& [name, count] : screened) {
    std::printf("%s: %d codebooks screened\n", name.c_str(), count);
  }
  return failures == 0 ? 0 : 1;
}
