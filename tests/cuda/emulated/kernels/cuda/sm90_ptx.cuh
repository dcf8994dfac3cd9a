// Stands in for csrc/kernels/cuda/sm90_ptx.cuh on the host. Copies come at once where threads run
// in an odd schedule, else only when all threads wait. Products are computed only when they are
// waited for, from what shared memory holds then: a stage that is given away too early shows as a
// wrong result.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/cuda/ptx.cuh"

namespace emulated {

// The eight bytes of an mbarrier.
struct Barrier {
  int32_t bytes;     // that are announced and have not come
  uint8_t arrivals;  // of a phase
  uint8_t pending;   // arrivals that this phase still waits for
  uint8_t phase;
  uint8_t valid;

  void settle() {
    if (pending != 0 || bytes != 0) return;
    phase ^= 1;
    pending = arrivals;
  }
};
static_assert(sizeof(Barrier) == sizeof(uint64_t), "an mbarrier has 64 bits");
constexpr uint8_t kValid = 0x5a;

inline Barrier& barrier_at(uint64_t* address) {
  Barrier& barrier = *reinterpret_cast<Barrier*>(address);
  check(barrier.valid == kValid, "a barrier that nobody initialised");
  return barrier;
}

struct BulkCopy {
  void* shared;
  const void* global;
  int bytes;
  uint64_t* barrier;
};
inline std::vector<BulkCopy> bulk_copies;

inline void carry_out(const BulkCopy& copy) {
  std::memcpy(copy.shared, copy.global, static_cast<size_t>(copy.bytes));
  Barrier& barrier = barrier_at(copy.barrier);
  barrier.bytes -= copy.bytes;
  barrier.settle();
}

// Carries out one of the copies in flight, not always the oldest.
inline bool next_bulk_copy() {
  static size_t turn = 0;
  if (bulk_copies.empty()) return false;
  const size_t i = ++turn % bulk_copies.size();
  const BulkCopy copy = bulk_copies[i];
  bulk_copies.erase(bulk_copies.begin() + static_cast<std::ptrdiff_t>(i));
  carry_out(copy);
  return true;
}

struct NamedBarrier {
  int arrived = 0;
  unsigned generation = 0;
};
inline NamedBarrier named_barriers[16];

inline unsigned arrive_at(int name, int threads) {
  NamedBarrier& barrier = named_barriers[name];
  const unsigned generation = barrier.generation;
  check(barrier.arrived < threads, "too many threads at a named barrier");
  if (++barrier.arrived == threads) {
    barrier.arrived = 0;
    ++barrier.generation;
  }
  return generation;
}

struct Product {
  float* d;
  uint64_t a;
  uint64_t b;
  bool accumulate;
};
inline std::vector<std::vector<Product>> products[1024];  // of each thread, by group

// An operand's element in shared memory, from its descriptor: K-major, no swizzle.
inline float operand(uint64_t descriptor, int row, int k) {
  const auto field = [&](int shift) { return static_cast<int>(descriptor >> shift & 0x3fff) * 16; };
  check(descriptor >> 46 == 0, "wgmma: only operands without swizzle are emulated");
  const int offset = field(0) + row / 8 * field(32) + k / 8 * field(16) + row % 8 * 16 + k % 8 * 2;
  uint16_t bits;
  std::memcpy(&bits, shared_begin() + offset, sizeof bits);
  return half_value(bits);
}

// What one thread has of a product: PTX ISA, "Register fragments for wgmma.m64n128k16", D.
inline void compute(const Product& product) {
  const int lane = static_cast<int>(current % kWarp);
  const int warp = static_cast<int>(current / kWarp % 4);
  for (int half = 0; half < 2; ++half) {
    float a[16];
    for (int k = 0; k < 16; ++k) a[k] = operand(product.a, 16 * warp + lane / 4 + 8 * half, k);
    for (int i = 0; i < 32; ++i) {
      const int column = i / 2 * 8 + lane % 4 * 2 + i % 2;
      float* d = product.d + i / 2 * 4 + half * 2 + i % 2;
      float sum = product.accumulate ? *d : 0.0f;
      for (int k = 0; k < 16; ++k) sum = add_product(sum, a[k], operand(product.b, column, k));
      *d = sum;
    }
  }
}

}  // namespace emulated

namespace vqgan_fast {
namespace ptx {

inline void init_barrier(uint64_t* barrier, int arrivals) {
  const auto count = static_cast<uint8_t>(arrivals);
  *reinterpret_cast<emulated::Barrier*>(barrier) = {0, count, count, 0, emulated::kValid};
  emulated::work_in_flight = emulated::next_bulk_copy;
}
inline void fence_barrier_init() {}
inline void fence_generic_reads() {}  // memory has one order here
inline void arrive(uint64_t* address) {
  emulated::Barrier& barrier = emulated::barrier_at(address);
  emulated::check(barrier.pending > 0, "more arrivals than a barrier's phase has");
  --barrier.pending;
  barrier.settle();
}
inline void arrive_and_expect(uint64_t* address, int bytes) {
  emulated::barrier_at(address).bytes += bytes;
  arrive(address);
}
inline void wait_barrier(uint64_t* address, int parity) {
  emulated::wait_until([&] { return emulated::barrier_at(address).phase != parity; });
}

inline void copy_bulk(void* shared, const void* global, int bytes, uint64_t* barrier) {
  emulated::check(bytes % 16 == 0 && reinterpret_cast<uintptr_t>(global) % 16 == 0 &&
                      shared_address(shared) % 16 == 0,
                  "cp.async.bulk: addresses and sizes are multiples of 16");
  emulated::check(shared_address(shared) + static_cast<size_t>(bytes) <=
                      emulated::dynamic_shared.size() * 8 - 16,
                  "cp.async.bulk: outside shared memory");
  const emulated::BulkCopy copy{shared, global, bytes, barrier};
  if (emulated::schedule % 2 == 1) {
    emulated::carry_out(copy);
  } else {
    emulated::bulk_copies.push_back(copy);
  }
}

inline void sync_named(int name, int threads) {
  const unsigned generation = emulated::arrive_at(name, threads);
  emulated::wait_until([&] { return emulated::named_barriers[name].generation != generation; });
}
inline void arrive_named(int name, int threads) { emulated::arrive_at(name, threads); }

template <int kRegisters>
void give_registers() {}
template <int kRegisters>
void take_registers() {}

inline void begin_products() {
  auto& groups = emulated::products[emulated::current];
  if (groups.empty()) groups.emplace_back();
}
inline void commit_products() {
  emulated::products[emulated::current].emplace_back();
  emulated::wait(emulated::State::kSpinning);  // the others go on while the products are under way
}
template <int kGroups>
void wait_for_products() {
  auto& groups = emulated::products[emulated::current];
  emulated::wait(emulated::State::kSpinning);
  while (groups.size() > kGroups + 1) {
    for (const auto& product : groups.front()) emulated::compute(product);
    groups.erase(groups.begin());
  }
}
inline void keep(float&) {}

inline void multiply_64x128(float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
  auto& groups = emulated::products[emulated::current];
  emulated::check(!groups.empty(), "wgmma before its fence");
  groups.back().push_back({d, a, b, accumulate != 0});
}

}  // namespace ptx
}  // namespace vqgan_fast
