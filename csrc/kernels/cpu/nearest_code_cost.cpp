#include "kernels/cpu/nearest_code_cost.h"

#include <algorithm>
#include <cmath>

namespace vqgan_fast {
namespace {

// Nanoseconds of a way that goes through all pairs of a row and a code.
struct DenseCost {
  double call;               // once
  double row, row_element;   // for each row, and each of its elements
  double pair, pair_element; // for each pair, and each of their elements
  double code, code_element; // for each code that is packed (or transposed on the way), and element
};

struct BoxesCost {
  double call;
  double row, row_element;
  double cycle;                        // for each of boxes_cycles
  double code, code_level, code_element;  // packing: for each code, level of boxes above, element
};

struct LevelCost {
  DenseCost direct, fp32, int16;
  BoxesCost boxes;
};

// Fitted on one core of an AMD EPYC (Zen 4) by benchmarks/fit_search_cost.py. "call" is what a way
// costs beyond the cheapest one.
constexpr LevelCost kVnni = {{190, 119, 1.91, 0.0480, 0.0196, 0.339, 0.114},
                             {860, 38.3, 1.41, 0.0186, 0.0173, 4.33, 0.364},
                             {1290, 40.9, 1.36, 0.0660, 0.00804, 20.7, 0.663},
                             {870, 20.0, 1.65, 0.230, 12.7, 3.73, 2.54}};
constexpr LevelCost kAvx2 = {{280, 115, 1.98, 0.0639, 0.0218, 0.537, 0.112},
                             {990, 30.3, 1.39, 0.0201, 0.0172, 4.90, 0.330},
                             {1400, 54.7, 1.08, 0.0922, 0.00998, 26.3, 0.491},
                             {880, 7.61, 1.42, 0.298, 13.2, 3.65, 2.56}};
