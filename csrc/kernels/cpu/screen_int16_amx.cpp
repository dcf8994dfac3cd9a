// AMX: a tile instruction multiplies 16 rows by 16 codes, 64 bytes of each, in 16 cycles: 16 times
// as many products of bytes as the level before has of int16. Three of them make those of int16,
// see QuantisedLayout::kBytes. Short vectors, which fill no tile, are multiplied in pairs as
// before.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/quantised_loops.h"
#include "kernels/cpu/quantised_vectors_avx512.h"

namespace vqgan_fast {
namespace {

// The CPUs that have tiles find the smaller of two fp32 numbers at twice the rate of integers.
struct Amx : Avx512Vectors {
  static constexpr int kElements = 2;
  static Int dot(Int acc, Int a, Int b) { return vpdpwssd(acc, a, b); }
  static Int min(Int a, Int b) {
    return _mm512_castps_si512(_mm512_min_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)));
  }
  static Int max(Int a, Int b) {
    return _mm512_castps_si512(_mm512_max_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)));
  }
};

constexpr int kTile = 16;  // rows, codes, and bytes in a quarter of a tile's row
constexpr int kTileBytes = 1024;

// How the elements of a vector are dealt out to tiles: evenly, so that all have one shape and hold
// few zeros.
struct Steps {
  int64_t count;
  int64_t bytes;  // of a row, in each
};
Steps steps_of(int64_t dim) {
  const int64_t count = (dim + 63) / 64;
  return {count, (dim + 4 * count - 1) / (4 * count) * 4};
}

int64_t row_elements(int64_t dim) { return (dim + 63) / 64 * 64; }
int64_t code_elements(int64_t dim) {
  const Steps steps = steps_of(dim);
  return steps.count * steps.bytes;
}

// --- Where bytes lie
// A row's step is a row of two tiles, first the high bytes, then the low ones. A code's step is a
// column of quads of bytes, again in two tiles.

// The low byte is what is left beside the nearest multiple of 256: signed, so as small as can be.
// Returns the sum of the squared low bytes; count <= 64.
int32_t split_bytes(const int16_t* q, int64_t count, int8_t* high, int8_t* low) {
  int32_t sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t l = static_cast<int8_t>(q[i] & 0xff);
    low[i] = static_cast<int8_t>(l);
    high[i] = static_cast<int8_t>((q[i] - l) >> 8);
    sum += l * l;
  }
  return sum;
}

double place_row(const int16_t* q, int64_t dim, int16_t* rows, int64_t r) {
  const Steps steps = steps_of(dim);
  int8_t* tile =
      reinterpret_cast<int8_t*>(rows) + r / kTile * kTile * 2 * 64 * steps.count + r % kTile * 64;
  double norm2 = 0.0;
  for (int64_t d = 0; d < dim; d += steps.bytes, tile += 2 * kTileBytes) {
    const int64_t count = dim - d < steps.bytes ? dim - d : steps.bytes;
    std::memset(tile, 0, steps.bytes);
    std::memset(tile + kTileBytes, 0, steps.bytes);
    norm2 += split_bytes(q + d, count, tile, tile + kTileBytes);
  }
  return norm2;
}

double place_code(const int16_t* q, int64_t dim, int16_t* panel, int64_t k) {
  const Steps steps = steps_of(dim);
  int8_t* tile = reinterpret_cast<int8_t*>(panel) + k * 4;
  double norm2 = 0.0;
  for (int64_t d = 0; d < dim; d += steps.bytes, tile += 2 * kTile * steps.bytes) {
    int8_t high[64] = {}, low[64] = {};
    const int64_t count = dim - d < steps.bytes ? dim - d : steps.bytes;
    norm2 += split_bytes(q + d, count, high, low);
    for (int64_t i = 0; i < steps.bytes; i += 4) {
      std::memcpy(tile + i * kTile, high + i, 4);
      std::memcpy(tile + (steps.bytes + i) * kTile, low + i, 4);
    }
  }
  return norm2;
}

// --- Products

void begin(int64_t dim) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  static_assert(sizeof config == 64, "as the instruction reads it");
  const int64_t bytes = steps_of(dim).bytes;
  for (int t = 0; t < 8; ++t) {
    const bool of_rows = t == 4 || t == 5, of_codes = t == 6 || t == 7;
    config.row_bytes[t] = static_cast<uint16_t>(of_rows ? bytes : 64);
    config.rows[t] = static_cast<uint8_t>(of_codes ? bytes / 4 : kTile);
  }
  asm volatile("" : : "r"(&config) : "memory");  // GCC 12 believes that 8 bytes of it are read
  _tile_loadconfig(&config);
}

void end() { _tile_release(); }

// Sums of products of 16 rows and 16 codes: of high bytes, and of high and low ones either way.
struct alignas(64) Products {
  int32_t high[kTile][kTile], high_low[kTile][kTile], low_high[kTile][kTile];
};

// The sums begin; keep_products ends them.
void add_products(const int8_t* rows, const int8_t* codes, const Steps& steps) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  const int64_t code_bytes = kTile * steps.bytes;
  for (int64_t s = 0; s < steps.count; ++s) {
    _tile_loadd(4, rows, 64);
    _tile_loadd(6, codes, 64);
    _tile_loadd(5, rows + kTileBytes, 64);
    _tile_loadd(7, codes + code_bytes, 64);
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    rows += 2 * kTileBytes;
    codes += 2 * code_bytes;
  }
}

void keep_products(Products* products) {
  _tile_stored(0, products->high, 64);
  _tile_stored(1, products->high_low, 64);
  _tile_stored(2, products->low_high, 64);
}

// What a panel's products are for: scores that go into the state, or marks.
template <bool kSameShift, bool kMark>
void take_products(const Products& products, const QuantisedTile& tile, int64_t panel) {
  const __m512i norm = Amx::load(tile.norms + panel * kTile);
  [[maybe_unused]] const __m512i tag = Amx::broadcast(tile.first_tag + static_cast<int32_t>(panel));
  const auto start = [&](int r) {
    return Amx::add(Amx::shift(norm, tile.shifts + r), Amx::broadcast(tile.biases[r]));
  };
  const __m512i same_start = start(0);
  for (int r = 0; r < tile.num_rows; ++r) {
    const __m512i high = _mm512_slli_epi32(Amx::load(products.high[r]), 8);
    const __m512i mixed =
        Amx::add(Amx::load(products.high_low[r]), Amx::load(products.low_high[r]));
    const __m512i sum = Amx::add(Amx::add(high, mixed), kSameShift ? same_start : start(r));
    if constexpr (kMark) {
      tile.marks[r * tile.marks_stride + panel] =
          static_cast<uint16_t>(Amx::within(sum, tile.limits[r]));
    } else {
      int32_t* state = tile.state + r * 2 * kTile;
      const __m512i score = Amx::replace_low_bits(sum, tag);
      const __m512i best = Amx::load(state), loser = Amx::load(state + kTile);
      Amx::store(state, Amx::min(best, score));
      Amx::store(state + kTile, Amx::min(loser, Amx::max(best, score)));
    }
  }
}

template <bool kSameShift, bool kMark>
void multiply(const QuantisedTile& tile) {
  const Steps steps = steps_of(tile.dim);
  const auto* rows = reinterpret_cast<const int8_t*>(tile.rows);
  const auto* codes = reinterpret_cast<const int8_t*>(tile.codes);
  const int64_t panel_bytes = 2 * kTile * steps.bytes * steps.count;
  Products products[2];
  // Tiles multiply the next panel while vectors take what came of the last.
  add_products(rows, codes, steps);
  keep_products(&products[0]);
  for (int64_t p = 1; p < tile.num_panels; ++p) {
    add_products(rows, codes + p * panel_bytes, steps);
    take_products<kSameShift, kMark>(products[(p - 1) % 2], tile, p - 1);
    keep_products(&products[p % 2]);
  }
  take_products<kSameShift, kMark>(products[(tile.num_panels - 1) % 2], tile, tile.num_panels - 1);
}

template <bool kMark>
void screen_by_tiles(const QuantisedTile& tile) {
  tile.same_shift ? multiply<true, kMark>(tile) : multiply<false, kMark>(tile);
}

constexpr QuantisedKernels make_tile_kernels() {
  QuantisedKernels kernels = make_kernels<Amx>();
  kernels.layout = QuantisedLayout::kBytes;
  kernels.vectors = 1;
  kernels.tile_rows = kTile;
  kernels.screen = screen_by_tiles<false>;
  kernels.mark = screen_by_tiles<true>;
  kernels.bytes = {begin,     end,       row_elements, code_elements, largest_element<Amx>,
                   place_row, place_code};
  return kernels;
}

}  // namespace

const QuantisedKernels kScreenInt16Amx = make_kernels<Amx>();
const QuantisedKernels kScreenInt16AmxTiles = make_tile_kernels();

}  // namespace vqgan_fast
