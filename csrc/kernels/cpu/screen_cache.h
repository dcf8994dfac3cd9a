// Keeps packed codebooks between calls, so that tokenising a data set packs its codebook once.
//
// A codebook is known by its content, and there is nothing to invalidate: one that was changed is
// another one. Nothing cheaper is safe. torch's version counter does not move when `.data.copy_()`
// writes a checkpoint, when an EMA is swapped in, or when numpy writes to shared memory; an address
// is given to the next tensor once its own is freed. Reading the codebook again costs less than one
// row's search.
//
// In a process that forks, the child keeps what the parent had and may go on. The op library and
// _native hold a cache each.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "kernels/cpu/content_hash.h"
#include "kernels/cpu/nearest_code_screen.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd_level.h"

namespace vqgan_fast {

enum class ScreenKind { kFp32, kInt16, kInt8, kBoxes, kClusters };

// A codebook, by what it holds.
struct CodebookKey {
  ContentHash hash;
  DType dtype = DType::kFloat32;
  int64_t num_codes = 0;
  int64_t dim = 0;

  bool operator==(const CodebookKey& other) const {
    return hash == other.hash && dtype == other.dtype && num_codes == other.num_codes &&
           dim == other.dim;
  }
};

// One way to pack it.
struct ScreenKey {
  CodebookKey codebook;
  ScreenKind kind = ScreenKind::kFp32;
  SimdLevel level = SimdLevel::kBaseline;

  bool operator==(const ScreenKey& other) const {
    return codebook == other.codebook && kind == other.kind && level == other.level;
  }
};

// All functions may be called from many threads at once.

// VQGAN_FAST_CACHE_MB in bytes, read at every call; 256 MB if it is not set. At 0 nothing is kept
// and no codebook needs to be hashed. Throws std::runtime_error if it is no whole number.
int64_t screen_cache_limit();

// Whether this codebook was met before, not long ago; now it is. One that comes again is likely to
// stay, and worth keeping; in training every step brings another one.
bool meet_codebook(const CodebookKey& key);

// Returns what was packed for this key: null if the codebook turned out to have no such screen,
// which is worth knowing as well, and nothing if it was not tried, or long ago. Clusters are looked
// for in samples that are not compared with the hash, so another thread's writing may cost time
// there.
std::optional<std::shared_ptr<const CodeScreen>> find_screen(const ScreenKey& key);

// Keeps a screen that was just packed, or null. What was used longest ago goes first when all
// together exceed the limit; whoever holds it may use it on. It must have been packed from what has
// the key's hash (code_source.h): what was packed while another thread changed the codebook must
// not be found when the old content comes back.
void keep_screen(const ScreenKey& key, const std::shared_ptr<const CodeScreen>& screen);

}  // namespace vqgan_fast
