// Which way a search goes: by a screen of the packed codebook, or directly.
#pragma once

#include <memory>

#include "kernels/cpu/nearest_code.h"
#include "kernels/cpu/nearest_code_screen.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/screen_cache.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

struct SearchPlan {
  SimdLevel level = SimdLevel::kBaseline;
  std::shared_ptr<const CodeScreen> screen;  // null: search directly
};

// The way that the cost model of nearest_code_plan.cpp holds for the fastest, or the one that the
// environment variable VQGAN_FAST_SCREEN names (direct, fp32, int16 or boxes; auto is the default).
// Packs the codebook, unless an earlier call left it packed.
SearchPlan plan_search(const NearestCodeArgs& args, const Parallel& parallel);

}  // namespace vqgan_fast
