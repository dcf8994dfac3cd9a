// The level that every CPU runs, on the compiler's own 16-byte vectors (SSE2, NEON, ...).
#include <cstdint>
#include <cstring>

#include "kernels/cpu/screen_boxes.h"
#include "kernels/cpu/screen_boxes_search.h"

namespace vqgan_fast {
namespace {

struct Baseline {
  using Float = float __attribute__((vector_size(16)));
  using Places = int32_t __attribute__((vector_size(16)));
  static constexpr int kLanes = 4;

  static Float load(const float* p) {
    Float v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(float* p, Float v) { std::memcpy(p, &v, sizeof v); }
  static Float broadcast(float x) { return Float{x, x, x, x}; }
  static Float min(Float a, Float b) { return a < b ? a : b; }
  static Float max(Float a, Float b) { return a > b ? a : b; }
  static Float sub(Float a, Float b) { return a - b; }
  static Float mul(Float a, Float b) { return a * b; }
  static Float mul_add(Float a, Float b, Float c) { return a * b + c; }
  static float least(Float v) {
    const float low = v[0] < v[1] ? v[0] : v[1];
    const float high = v[2] < v[3] ? v[2] : v[3];
    return low < high ? low : high;
  }
  static bool any_within(Float v, Float limit) {
    const Places within = v <= limit;
    int64_t halves[2];
    std::memcpy(halves, &within, sizeof halves);
    return (halves[0] | halves[1]) != 0;
  }

  // Bounds are not negative: as integers they are ordered as they are as numbers.
  static Places no_places() { return Places{INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX}; }
  static Places nearer(Places least, Float bounds, int32_t first) {
    Places key;
    std::memcpy(&key, &bounds, sizeof key);
    key = (key & ~kPlaceMask) | (Places{0, 1, 2, 3} + first);
    return key < least ? key : least;
  }
  static int32_t smallest(Places least) {
    const int32_t low = least[0] < least[1] ? least[0] : least[1];
    const int32_t high = least[2] < least[3] ? least[2] : least[3];
    return low < high ? low : high;
  }
  static Places without(Places least, int32_t place) {
    return least == place ? no_places() : least;
  }

  static constexpr bool kHasSieve = false;

  static int keep(Float scores, Float limit, int32_t first, float* kept, int32_t* places) {
    const Places within = scores <= limit;
    int count = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      kept[count] = scores[lane];
      places[count] = first + lane;
      count -= within[lane];
    }
    return count;
  }
};

}  // namespace

ScreenBoxesFn screen_boxes_baseline(int padded_dim) { return kernel_for<Baseline>(padded_dim); }

}  // namespace vqgan_fast
