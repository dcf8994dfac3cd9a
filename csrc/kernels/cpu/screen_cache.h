// Keeps packed codebooks between calls. A codebook is known by its content, so there is nothing to
// invalidate: one that was changed is another one.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/cpu/nearest_code_screen.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

// 128 bits of the elements' bits, in order, whatever the strides.
struct ContentHash {
  uint64_t low = 0;
  uint64_t high = 0;
};
ContentHash hash_content(const Rows& codebook, int64_t num_codes, int64_t dim,
                         const Parallel& parallel);

enum class ScreenKind { kFp32, kInt16, kBoxes };

struct ScreenKey {
  ContentHash hash;
  DType dtype;
  int64_t num_codes;
  int64_t dim;
  ScreenKind kind;
  SimdLevel level;
};

// Returns what was packed for this key, or null. All functions may be called from many threads.
std::shared_ptr<const CodeScreen> find_screen(const ScreenKey& key);

// Offers a screen that was just packed. It is kept if its key was offered before, not long ago: in
// training, where every step brings another codebook, nothing is. What was used longest ago goes
// first when all together exceed the limit (VQGAN_FAST_CACHE_MB, 256 by default; 0 keeps nothing).
void offer_screen(const ScreenKey& key, const std::shared_ptr<const CodeScreen>& screen);

// What is kept now, in bytes.
int64_t screen_cache_bytes();
void clear_screen_cache();

}  // namespace vqgan_fast
