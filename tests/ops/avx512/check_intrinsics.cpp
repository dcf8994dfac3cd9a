// Every emulated intrinsic against what Intel's guide says of a lane, in plain C++: on random bits,
// on numbers of ordinary size, and on those at which the semantics show.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>
#include <type_traits>

#include "checks.h"

namespace {

using emulated::bits_as;
using emulated::Lanes;

std::mt19937_64 generator(20261130);
int failures = 0;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kSpecial[] = {0.0f,      -0.0f, 1.0f,   -1.0f,       kInfinity,   -kInfinity, kNan,
                              0x1p-149f, 1e38f, -3e38f, 0x1.8p-127f, 16777217.0f, 0.5f,       2.5f};
constexpr double kSpecialWide[] = {0.0,           -0.0,         kInfinity,       -kInfinity,
                                   kNan,          2147483647.5, -2147483648.9,   2147483648.0,
                                   -2147483649.0, 0x1.000001p0, 0x1p-150,        1e300,
                                   -0.99,         2.5,          0x1.fffffffp127, -7.0};
constexpr int16_t kSpecialShort[] = {0, 1, -1, 32767, -32768};

// The lanes of one 64-byte vector.
template <class T>
Lanes<T> draw() {
  Lanes<T> v;
  const uint64_t kind = generator() % 3;
  for (T& x : v.lane) {
    const uint64_t bits = generator();
    if constexpr (std::is_same_v<T, float>) {
      if (kind == 0) x = kSpecial[bits % std::size(kSpecial)];
      if (kind == 1) x = static_cast<float>(static_cast<int32_t>(bits)) * 0x1p-28f;
    } else if constexpr (std::is_same_v<T, double>) {
      if (kind == 0) x = kSpecialWide[bits % std::size(kSpecialWide)];
      if (kind == 1) x = static_cast<double>(static_cast<int64_t>(bits)) * 0x1p-50;
    } else if constexpr (std::is_same_v<T, int16_t>) {
      x = kind == 0 ? kSpecialShort[bits % std::size(kSpecialShort)] : static_cast<int16_t>(bits);
    } else {
      x = static_cast<T>(kind == 0 ? bits % 3 - 1 : bits);
    }
    if constexpr (std::is_floating_point_v<T>) {
      if (kind == 2) std::memcpy(&x, &bits, sizeof x);
    }
  }
  return v;
}

// Holds `found` against expected(lane); a NaN may be any NaN unless its bits are copied.
template <class T, bool kCopied = true, class Vector, class Expected>
void hold(const char* name, const Vector& found, const Expected& expected) {
  constexpr int kCount = sizeof(Vector) / sizeof(T);
  T lanes[kCount];
  std::memcpy(lanes, &found, sizeof lanes);
  for (int i = 0; i < kCount; ++i) {
    const T wanted = expected(i);
    if (std::memcmp(&lanes[i], &wanted, sizeof wanted) == 0) continue;
    if constexpr (!kCopied) {
      if (std::isnan(lanes[i]) && std::isnan(wanted)) continue;
    }
    if (++failures < 50) std::printf("%s: lane %d differs\n", name, i);
  }
}

void hold_scalar(const char* name, bool same) {
  if (!same && ++failures < 50) std::printf("%s differs\n", name);
}

template <class T>
T lesser(T a, T b) {
  return a < b ? a : b;  // b where one is a NaN, or both are zero
}
template <class T>
T greater(T a, T b) {
  return a > b ? a : b;
}

void hold_fp32() {
  const auto a = draw<float>(), b = draw<float>(), c = draw<float>();
  const __m512 x = _mm512_loadu_ps(a.lane), y = _mm512_loadu_ps(b.lane);
  const __m512 z = bits_as<__m512>(c);
  const auto of = [](const Lanes<float>& v) { return [&v](int i) { return v.lane[i]; }; };
  hold<float>("loadu_ps", x, of(a));
  alignas(64) Lanes<float> aligned = b;
  hold<float>("load_ps", _mm512_load_ps(aligned.lane), of(b));
  _mm512_store_ps(aligned.lane, x);
  hold<float>("store_ps", aligned, of(a));
  _mm512_storeu_ps(aligned.lane, y);
  hold<float>("storeu_ps", aligned, of(b));
  hold<float>("set1_ps", _mm512_set1_ps(a.lane[3]), [&](int) { return a.lane[3]; });
  hold<float>("setzero_ps", _mm512_setzero_ps(), [](int) { return 0.0f; });
  hold<float, false>("add_ps", _mm512_add_ps(x, y), [&](int i) { return a.lane[i] + b.lane[i]; });
  hold<float, false>("sub_ps", _mm512_sub_ps(x, y), [&](int i) { return a.lane[i] - b.lane[i]; });
  hold<float, false>("mul_ps", _mm512_mul_ps(x, y), [&](int i) { return a.lane[i] * b.lane[i]; });
  hold<float>("min_ps", _mm512_min_ps(x, y), [&](int i) { return lesser(a.lane[i], b.lane[i]); });
  hold<float>("max_ps", _mm512_max_ps(x, y), [&](int i) { return greater(a.lane[i], b.lane[i]); });
  hold<float, false>("fmadd_ps", _mm512_fmadd_ps(x, y, z),
                     [&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
  hold<float, false>("fnmadd_ps", _mm512_fnmadd_ps(x, y, z),
                     [&](int i) { return std::fma(-a.lane[i], b.lane[i], c.lane[i]); });
  const auto from = [&](int i, int half) {
    const int place = i / 4 * 4 + half + i % 4 / 2;
    return i % 2 == 0 ? a.lane[place] : b.lane[place];
  };
  hold<float>("unpacklo_ps", _mm512_unpacklo_ps(x, y), [&](int i) { return from(i, 0); });
  hold<float>("unpackhi_ps", _mm512_unpackhi_ps(x, y), [&](int i) { return from(i, 2); });
  const __m128 quarter = _mm_loadu_ps(b.lane + 5);
  const auto replaced = [&](int part) {
    return [&, part](int i) { return i / 4 == part ? b.lane[5 + i % 4] : a.lane[i]; };
  };
  hold<float>("insertf32x4, 1", _mm512_insertf32x4(x, quarter, 1), replaced(1));
  hold<float>("insertf32x4, 2", _mm512_insertf32x4(x, quarter, 2), replaced(2));
  hold<float>("insertf32x4, 3", _mm512_insertf32x4(x, quarter, 3), replaced(3));
  const auto wide = bits_as<Lanes<float>>(_mm512_castps128_ps512(quarter));
  hold_scalar("castps128_ps512", std::memcmp(wide.lane, b.lane + 5, 16) == 0);
  hold<double, false>("cvtps_pd", _mm512_cvtps_pd(_mm256_loadu_ps(a.lane + 2)),
                      [&](int i) { return static_cast<double>(a.lane[2 + i]); });
  unsigned less = 0, at_most = 0, not_above = 0;
  for (int i = 0; i < 16; ++i) {
    less |= static_cast<unsigned>(a.lane[i] < b.lane[i]) << i;
    at_most |= static_cast<unsigned>(a.lane[i] <= b.lane[i]) << i;
    not_above |= static_cast<unsigned>(!(a.lane[i] > b.lane[i])) << i;
  }
  hold_scalar("cmp_ps_mask, LT_OQ", _mm512_cmp_ps_mask(x, y, _CMP_LT_OQ) == less);
  hold_scalar("cmp_ps_mask, LE_OQ", _mm512_cmp_ps_mask(x, y, _CMP_LE_OQ) == at_most);
  hold_scalar("cmp_ps_mask, NGT_UQ", _mm512_cmp_ps_mask(x, y, _CMP_NGT_UQ) == not_above);
  float least = kInfinity;
  bool any_nan = false;
  for (const float lane : a.lane) {
    least = lesser(lane, least);
    any_nan |= std::isnan(lane);
  }
  hold_scalar("reduce_min_ps", any_nan || _mm512_reduce_min_ps(x) == least);
  const auto mask = static_cast<__mmask16>(generator());
  float compressed[16] = {};
  for (int i = 0, count = 0; i < 16; ++i) {
    if ((mask >> i & 1) != 0) compressed[count++] = a.lane[i];
  }
  hold<float>("maskz_compress_ps", _mm512_maskz_compress_ps(mask, x),
              [&](int i) { return compressed[i]; });
}

void hold_fp64() {
  const auto a = draw<double>(), b = draw<double>(), c = draw<double>();
  const __m512d x = _mm512_loadu_pd(a.lane), y = _mm512_loadu_pd(b.lane);
  const __m512d z = bits_as<__m512d>(c);
  hold<double>("loadu_pd", x, [&](int i) { return a.lane[i]; });
  Lanes<double> stored;
  _mm512_storeu_pd(stored.lane, y);
  hold<double>("storeu_pd", stored, [&](int i) { return b.lane[i]; });
  hold<double>("set1_pd", _mm512_set1_pd(a.lane[3]), [&](int) { return a.lane[3]; });
  hold<double>("setzero_pd", _mm512_setzero_pd(), [](int) { return 0.0; });
  hold<double, false>("sub_pd", _mm512_sub_pd(x, y), [&](int i) { return a.lane[i] - b.lane[i]; });
  hold<double>("min_pd", _mm512_min_pd(x, y), [&](int i) { return lesser(a.lane[i], b.lane[i]); });
  hold<double>("max_pd", _mm512_max_pd(x, y), [&](int i) { return greater(a.lane[i], b.lane[i]); });
  hold<double, false>("fmadd_pd", _mm512_fmadd_pd(x, y, z),
                      [&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
  const auto from = [&](int i, int half) { return (i % 2 == 0 ? a : b).lane[i / 2 * 2 + half]; };
  hold<double>("unpacklo_pd", _mm512_unpacklo_pd(x, y), [&](int i) { return from(i, 0); });
  hold<double>("unpackhi_pd", _mm512_unpackhi_pd(x, y), [&](int i) { return from(i, 1); });
  const __m256d half = _mm256_loadu_pd(b.lane + 1);
  hold<double>("insertf64x4, 1", _mm512_insertf64x4(x, half, 1),
               [&](int i) { return i < 4 ? a.lane[i] : b.lane[1 + i - 4]; });
  const auto wide = bits_as<Lanes<double>>(_mm512_castpd256_pd512(half));
  hold_scalar("castpd256_pd512", std::memcmp(wide.lane, b.lane + 1, 32) == 0);
  const auto index = draw<int64_t>();
  hold<double>("permutex2var_pd", _mm512_permutex2var_pd(x, bits_as<__m512i>(index), y),
               [&](int i) {
                 const int64_t place = index.lane[i] & 15;
                 return place < 8 ? a.lane[place] : b.lane[place - 8];
               });
  hold<float, false>("cvtpd_ps", _mm512_cvtpd_ps(x),
                     [&](int i) { return static_cast<float>(a.lane[i]); });
  hold<int32_t>("cvttpd_epi32", _mm512_cvttpd_epi32(x), [&](int i) {
    const double whole = std::trunc(a.lane[i]);
    return whole >= -0x1p31 && whole < 0x1p31 ? static_cast<int32_t>(whole) : INT32_MIN;
  });
  unsigned not_above = 0;
  for (int i = 0; i < 8; ++i) not_above |= static_cast<unsigned>(!(a.lane[i] > b.lane[i])) << i;
  hold_scalar("cmp_pd_mask, NGT_UQ", _mm512_cmp_pd_mask(x, y, _CMP_NGT_UQ) == not_above);
}

void hold_int32() {
  const auto a = draw<int32_t>(), b = draw<int32_t>(), c = draw<int32_t>();
  const __m512i x = _mm512_loadu_si512(a.lane), y = _mm512_loadu_si512(b.lane);
  const __m512i z = bits_as<__m512i>(c);
  const auto wrapped = [](int64_t sum) { return static_cast<int32_t>(static_cast<uint32_t>(sum)); };
  hold<int32_t>("loadu_si512", x, [&](int i) { return a.lane[i]; });
  Lanes<int32_t> stored;
  _mm512_storeu_si512(stored.lane, y);
  hold<int32_t>("storeu_si512", stored, [&](int i) { return b.lane[i]; });
  hold<int32_t>("set1_epi32", _mm512_set1_epi32(a.lane[3]), [&](int) { return a.lane[3]; });
  hold<int32_t>("setr_epi32",
                _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, -15),
                [](int i) { return i < 15 ? i : -15; });
  hold<int32_t>("and_si512", _mm512_and_si512(x, y), [&](int i) { return a.lane[i] & b.lane[i]; });
  hold<int32_t>("add_epi32", _mm512_add_epi32(x, y),
                [&](int i) { return wrapped(int64_t{a.lane[i]} + b.lane[i]); });
  hold<int32_t>("min_epi32", _mm512_min_epi32(x, y),
                [&](int i) { return lesser(a.lane[i], b.lane[i]); });
  hold<int32_t>("max_epi32", _mm512_max_epi32(x, y),
                [&](int i) { return greater(a.lane[i], b.lane[i]); });
  hold<int32_t>("slli_epi32", _mm512_slli_epi32(x, 16),
                [&](int i) { return wrapped(int64_t{a.lane[i]} * 65536); });
  const int64_t counts[] = {0, 1, 9, 31, 32, int64_t{1} << 40};
  for (const int64_t count : counts) {
    hold<int32_t>("sra_epi32", _mm512_sra_epi32(x, _mm_set_epi64x(7, count)), [&](int i) {
      const double power = std::ldexp(1.0, count > 31 ? 32 : static_cast<int>(count));
      return static_cast<int32_t>(std::floor(a.lane[i] / power));
    });
  }
  const auto by_bits = [&](int imm8) {
    return [&, imm8](int i) {
      uint32_t out = 0;
      for (int bit = 0; bit < 32; ++bit) {
        const auto of = [&](int32_t lane) { return static_cast<uint32_t>(lane) >> bit & 1; };
        const uint32_t number = of(a.lane[i]) * 4 + of(b.lane[i]) * 2 + of(c.lane[i]);
        out |= (static_cast<uint32_t>(imm8) >> number & 1) << bit;
      }
      return static_cast<int32_t>(out);
    };
  };
  hold<int32_t>("ternarylogic_epi32, D8", _mm512_ternarylogic_epi32(x, y, z, 0xD8), by_bits(0xD8));
  hold<int32_t>("ternarylogic_epi32, DC", _mm512_ternarylogic_epi32(x, y, z, 0xDC), by_bits(0xDC));
  hold<int32_t>("ternarylogic_epi32, 35", _mm512_ternarylogic_epi32(x, y, z, 0x35), by_bits(0x35));
  int32_t least = INT32_MAX;
  for (const int32_t lane : a.lane) least = lesser(lane, least);
  hold_scalar("reduce_min_epi32", _mm512_reduce_min_epi32(x) == least);
  hold<float>("cvtepi32_ps", _mm512_cvtepi32_ps(x),
              [&](int i) { return static_cast<float>(a.lane[i]); });
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a.lane + 3));
  hold<int16_t>("cvtsepi32_epi16", _mm256_cvtsepi32_epi16(half), [&](int i) {
    return static_cast<int16_t>(lesser(greater(a.lane[3 + i], -32768), 32767));
  });
  const auto mask = static_cast<__mmask16>(generator());
  hold<int32_t>("mask_mov_epi32", _mm512_mask_mov_epi32(x, mask, y),
                [&](int i) { return ((mask >> i & 1) != 0 ? b : a).lane[i]; });
  int32_t compressed[16] = {};
  unsigned at_most = 0, unequal = 0;
  for (int i = 0, count = 0; i < 16; ++i) {
    if ((mask >> i & 1) != 0) compressed[count++] = a.lane[i];
    at_most |= static_cast<unsigned>(a.lane[i] <= b.lane[i]) << i;
    unequal |= static_cast<unsigned>((mask >> i & 1) != 0 && a.lane[i] != b.lane[i]) << i;
  }
  hold<int32_t>("maskz_compress_epi32", _mm512_maskz_compress_epi32(mask, x),
                [&](int i) { return compressed[i]; });
  hold_scalar("cmple_epi32_mask", _mm512_cmple_epi32_mask(x, y) == at_most);
  hold_scalar("mask_cmpneq_epi32_mask", _mm512_mask_cmpneq_epi32_mask(mask, x, y) == unequal);
}

void hold_other_integers() {
  const auto words = draw<int64_t>(), factors = draw<int64_t>();
  const __m512i x = bits_as<__m512i>(words), y = bits_as<__m512i>(factors);
  const auto low = [](int64_t lane) { return static_cast<uint64_t>(lane) & 0xffffffffu; };
  hold<int64_t>("set1_epi64", _mm512_set1_epi64(words.lane[3]), [&](int) { return words.lane[3]; });
  hold<int64_t>("setr_epi64", _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, -7),
                [](int i) { return int64_t{i < 7 ? i : -7}; });
  hold<uint64_t>("mul_epu32", _mm512_mul_epu32(x, y),
                 [&](int i) { return low(words.lane[i]) * low(factors.lane[i]); });
  hold<uint64_t>("slli_epi64", _mm512_slli_epi64(x, 32),
                 [&](int i) { return static_cast<uint64_t>(words.lane[i]) << 32; });
  hold<uint64_t>("srli_epi64", _mm512_srli_epi64(x, 32),
                 [&](int i) { return static_cast<uint64_t>(words.lane[i]) >> 32; });

  const auto a = draw<int16_t>(), b = draw<int16_t>();
  const auto acc = draw<int32_t>();
  const auto products = [&](int i) {
    return int64_t{a.lane[2 * i]} * b.lane[2 * i] + int64_t{a.lane[2 * i + 1]} * b.lane[2 * i + 1];
  };
  hold<uint32_t>("madd_epi16", _mm512_madd_epi16(bits_as<__m512i>(a), bits_as<__m512i>(b)),
                 [&](int i) { return static_cast<uint32_t>(products(i)); });
  hold<uint32_t>(
      "dpwssd_epi32",
      emulated::dpwssd_epi32(bits_as<__m512i>(acc), bits_as<__m512i>(a), bits_as<__m512i>(b)),
      [&](int i) { return static_cast<uint32_t>(acc.lane[i] + products(i)); });
  const auto codes = bits_as<Lanes<uint8_t>>(a);
  const auto rows = bits_as<Lanes<int8_t>>(b);
  hold<uint32_t>(
      "dpbusd_epi32",
      emulated::dpbusd_epi32(bits_as<__m512i>(acc), bits_as<__m512i>(a), bits_as<__m512i>(b)),
      [&](int i) {
        int64_t sum = acc.lane[i];
        for (int j = 4 * i; j < 4 * i + 4; ++j) sum += codes.lane[j] * rows.lane[j];
        return static_cast<uint32_t>(sum);
      });
  unsigned common = 0;
  for (int i = 0; i < 32; ++i) {
    common |= static_cast<unsigned>((a.lane[i] & b.lane[i]) != 0) << i;
  }
  hold_scalar("test_epi16_mask",
              _mm512_test_epi16_mask(bits_as<__m512i>(a), bits_as<__m512i>(b)) == common);
  int8_t bytes[16];
  std::memcpy(bytes, a.lane, sizeof bytes);
  hold<int32_t>("cvtepi8_epi32",
                _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes))),
                [&](int i) { return int32_t{bytes[i]}; });
  const __m512 same = _mm512_castsi512_ps(x);
  hold<int64_t>("casts", _mm512_castps_si512(_mm512_castpd_ps(_mm512_castps_pd(same))),
                [&](int i) { return words.lane[i]; });
}

// Tiles smaller than they can be, so that each size shows.
void hold_tiles() {
  constexpr int kRows = 5, kColumns = 7, kQuads = 3;
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {4 * kColumns, 4 * kQuads, 4 * kColumns};
    uint8_t rows[16] = {kRows, kRows, kQuads};
  } config;
  static_assert(sizeof config == 64, "as the instruction reads it");
  int8_t a[kRows][40], b[kQuads][48];
  int32_t before[kRows][kColumns], after[kRows][kColumns + 2];
  for (auto& row : a) {
    for (int8_t& x : row) x = static_cast<int8_t>(generator());
  }
  for (auto& row : b) {
    for (int8_t& x : row) x = static_cast<int8_t>(generator());
  }
  for (auto& row : before) {
    for (int32_t& x : row) x = static_cast<int32_t>(generator());
  }
  for (auto& row : after) std::fill(std::begin(row), std::end(row), 1234);
  _tile_loadconfig(&config);
  _tile_loadd(0, before, sizeof before[0]);
  _tile_loadd(1, a, sizeof a[0]);
  _tile_loadd(2, b, sizeof b[0]);
  _tile_dpbssd(0, 1, 2);
  _tile_stored(0, after, sizeof after[0]);
  bool right = true;
  for (int m = 0; m < kRows; ++m) {
    for (int n = 0; n < kColumns; ++n) {
      int64_t sum = before[m][n];
      for (int k = 0; k < 4 * kQuads; ++k) sum += int64_t{a[m][k]} * b[k / 4][4 * n + k % 4];
      right = right && static_cast<uint32_t>(after[m][n]) == static_cast<uint32_t>(sum);
    }
    right = right && after[m][kColumns] == 1234 && after[m][kColumns + 1] == 1234;
  }
  hold_scalar("tile_dpbssd", right);
  _tile_zero(0);
  _tile_stored(0, after, sizeof after[0]);
  for (const auto& row : after) right = right && row[0] == 0 && row[kColumns - 1] == 0;
  hold_scalar("tile_zero", right);
  _tile_release();
}

}  // namespace

int check_intrinsics() {
  for (int draws = 0; draws < 1000; ++draws) {
    hold_fp32();
    hold_fp64();
    hold_int32();
    hold_other_integers();
    hold_tiles();
  }
  return failures;
}
