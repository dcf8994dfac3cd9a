// What the records of a search say about a row: entry e is a class of codes in a range of tiles (a
// split), with its smallest score and the tile that has it.
#pragma once

#include <cstdint>

#include "kernels/cuda/nearest_code_layout.h"
#include "kernels/cuda/nearest_code_stages.cuh"

namespace vqgan_fast {
namespace cuda {

struct ClassPlace {
  int64_t split;
  int index;
};

// Entries are few: a division of 32 bits is quicker.
__device__ inline ClassPlace class_place(const SearchPlan& plan, int64_t entry) {
  const auto classes = static_cast<uint32_t>(class_count(plan.classes));
  const uint32_t split = static_cast<uint32_t>(entry) / classes;
  return ClassPlace{split, static_cast<int>(static_cast<uint32_t>(entry) - split * classes)};
}

__device__ inline const ClassBest& record_of(const SearchArgs& args, int64_t chunk_row,
                                             const ClassPlace& place) {
  const int classes = class_count(args.plan.classes);
  return args.records[(place.split * args.plan.chunk_rows + chunk_row) * classes + place.index];
}
__device__ inline const ClassBest& record_of(const SearchArgs& args, int64_t chunk_row,
                                             int64_t entry) {
  return record_of(args, chunk_row, class_place(args.plan, entry));
}

// --- Crowded rows
//
// A class that gave up a score within the limit has a smaller one, so that is within the limit too:
// the codes that can be nearest are those of such classes, in any tile of their splits. If there
// are few of them a block measures them all (nearest_code_exact.cu), else the row is searched
// whole.

constexpr int kMostClasses = 64;
// Each row reads its codes by itself, where the search of whole rows reads a code once for up to 64
// of them.
constexpr int kShareOfCodes = 8;

__device__ inline int64_t codes_of_classes(const SearchPlan& plan, int count) {
  return count * plan.tiles_per_split * class_size(plan.classes);
}

__device__ inline bool is_crowded(const SearchArgs& args, int count) {
  return count > 0 && count <= kMostClasses &&
         codes_of_classes(args.plan, count) <= args.num_codes / kShareOfCodes;
}

// Code i of codes_of_classes(plan, 1); behind the last code where the last split has fewer tiles.
// (32 bits are enough for the codes of a class.)
__device__ inline int64_t code_of_class(const SearchPlan& plan, const ClassPlace& place, int i) {
  const auto size = static_cast<uint32_t>(class_size(plan.classes));
  const uint32_t tile = static_cast<uint32_t>(i) / size;
  return class_code(plan.classes, place.split * plan.tiles_per_split + tile, place.index,
                    static_cast<int>(static_cast<uint32_t>(i) - tile * size));
}

// Rows are listed from both ends.
__device__ inline int* crowded_row(const SearchArgs& args, int i) {
  return args.open + args.plan.chunk_rows - 1 - i;
}

}  // namespace cuda
}  // namespace vqgan_fast
