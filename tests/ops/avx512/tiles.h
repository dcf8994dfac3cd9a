// The tiles of AMX, which tests/ops/avx512/immintrin.h has beside the intrinsics of AVX-512: state
// of a thread, in plain C++. What a CPU would fault on ends the program.
#pragma once

#include <cstdint>
#include <cstring>

namespace emulated {

struct Tile {
  int8_t bytes[16][64];
};
struct TileState {
  bool configured = false;
  uint16_t row_bytes[8];
  uint8_t rows[8];
  Tile tiles[8];
};
inline thread_local TileState tile_state;

// A tile that instructions may name now.
inline Tile& tile_of(int tile) {
  check(tile_state.configured, "a tile is used without a configuration");
  return tile_state.tiles[tile];
}

inline void tile_loadconfig(const void* config) {
  uint8_t bytes[64];
  std::memcpy(bytes, config, sizeof bytes);
  check(bytes[0] == 1, "a tile configuration must be of palette 1");
  for (int i = 1; i < 64; ++i) {
    const bool free = (i >= 16 && i < 32) || (i >= 48 && i < 56);
    check(free || bytes[i] == 0, "a reserved byte of a tile configuration is not 0");
  }
  tile_state = {};
  for (int t = 0; t < 8; ++t) {
    std::memcpy(&tile_state.row_bytes[t], bytes + 16 + 2 * t, 2);
    tile_state.rows[t] = bytes[48 + t];
    check(tile_state.row_bytes[t] <= 64 && tile_state.rows[t] <= 16, "a tile is too large");
  }
  tile_state.configured = true;
}

inline void tile_release() { tile_state.configured = false; }

inline void tile_zero(int tile) { tile_of(tile) = {}; }

// What a row does not fill is zero.
inline void tile_loadd(int tile, const void* base, int64_t stride) {
  Tile& to = tile_of(tile) = {};
  for (int r = 0; r < tile_state.rows[tile]; ++r) {
    std::memcpy(to.bytes[r], static_cast<const char*>(base) + r * stride,
                tile_state.row_bytes[tile]);
  }
}

inline void tile_stored(int tile, void* base, int64_t stride) {
  const Tile& from = tile_of(tile);
  for (int r = 0; r < tile_state.rows[tile]; ++r) {
    std::memcpy(static_cast<char*>(base) + r * stride, from.bytes[r], tile_state.row_bytes[tile]);
  }
}

inline void tile_dpbssd(int acc, int a, int b) {
  const TileState& state = tile_state;
  Tile& sums = tile_of(acc);
  check(acc != a && acc != b && a != b, "the tiles of a product must differ");
  check(state.row_bytes[acc] == state.row_bytes[b] && state.rows[acc] == state.rows[a] &&
            state.row_bytes[a] == 4 * state.rows[b],
        "the tiles of a product do not fit");
  for (int m = 0; m < state.rows[acc]; ++m) {
    for (int n = 0; n < state.row_bytes[acc] / 4; ++n) {
      int32_t sum;
      std::memcpy(&sum, sums.bytes[m] + 4 * n, 4);
      auto wrapped = static_cast<uint32_t>(sum);
      for (int k = 0; k < state.row_bytes[a]; ++k) {
        wrapped += static_cast<uint32_t>(state.tiles[a].bytes[m][k] *
                                         state.tiles[b].bytes[k / 4][4 * n + k % 4]);
      }
      std::memcpy(sums.bytes[m] + 4 * n, &wrapped, 4);
    }
  }
}

}  // namespace emulated

#undef _tile_dpbssd
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#define _tile_dpbssd emulated::tile_dpbssd
#define _tile_loadconfig emulated::tile_loadconfig
#define _tile_loadd emulated::tile_loadd
#define _tile_release emulated::tile_release
#define _tile_stored emulated::tile_stored
#define _tile_zero emulated::tile_zero
