// The road of one call: which way, how much scratch memory, which steps. No state, no wait for the
// GPU: the number of rows that stay open is known there alone.
#include "kernels/cuda/nearest_code.cuh"

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/nearest_code_plan.h"
#include "kernels/cuda/nearest_code_stages.cuh"

namespace vqgan_fast {
namespace cuda {
namespace {

cudaError_t device_limits(DeviceLimits* limits) {
  int device = 0;
  int multiprocessors = 0;
  int major = 0;
  int minor = 0;
  cudaError_t error = cudaGetDevice(&device);
  const auto read = [&](int* value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(value, attribute, device);
  };
  read(&multiprocessors, cudaDevAttrMultiProcessorCount);
  read(&major, cudaDevAttrComputeCapabilityMajor);
  read(&minor, cudaDevAttrComputeCapabilityMinor);
  if (error != cudaSuccess) return error;
  limits->multiprocessors = multiprocessors;
  limits->has_mma = major >= 8 && mma_is_compiled();
  limits->has_wgmma = major == 9 && minor == 0 && wgmma_is_compiled();
  return cudaSuccess;
}

cudaError_t plan_call(const NearestCodeArgs& args, DeviceLimits* limits, SearchPlan* plan) {
  const cudaError_t error = device_limits(limits);
  if (error != cudaSuccess) return error;
  const bool fp64 = args.z.dtype == DType::kFloat64 || args.codebook.dtype == DType::kFloat64;
  const SearchWay way = choose_way(args.num_rows, args.num_codes, args.dim, fp64, *limits);
  const bool asked = args.way.has_value() && way_is_possible(*args.way, args.dim, fp64, *limits);
  *plan = plan_search(args.num_rows, args.num_codes, args.dim, asked ? *args.way : way,
                      limits->multiprocessors, args.chunk_rows);
  return cudaSuccess;
}

}  // namespace

cudaError_t nearest_code_workspace_bytes(const NearestCodeArgs& args, size_t* bytes) {
  DeviceLimits limits;
  SearchPlan plan;
  const cudaError_t error = plan_call(args, &limits, &plan);
  if (error == cudaSuccess) *bytes = search_workspace(plan, args.dim).bytes;
  return error;
}

cudaError_t nearest_code_way(const NearestCodeArgs& args, SearchWay* way) {
  DeviceLimits limits;
  SearchPlan plan;
  const cudaError_t error = plan_call(args, &limits, &plan);
  if (error == cudaSuccess) *way = plan.way;
  return error;
}

cudaError_t nearest_code(const NearestCodeArgs& call, cudaStream_t stream) {
  DeviceLimits limits;
  SearchArgs args;
  cudaError_t error = plan_call(call, &limits, &args.plan);
  if (error != cudaSuccess) return error;
  args.z = call.z;
  args.codebook = call.codebook;
  args.num_codes = call.num_codes;
  args.dim = call.dim;
  args.blocks = limits.multiprocessors;
  args.exact = call.exact;
  args.indices = call.indices;
  args.distances = call.distances;
  args.distance_dtype = call.distance_dtype;

  const SearchWorkspace at = search_workspace(args.plan, call.dim);
  unsigned char* const memory = static_cast<unsigned char*>(call.workspace);
  const SearchWay way = args.plan.way;
  args.facts = reinterpret_cast<CodebookFacts*>(memory + at.facts);
  args.partials = reinterpret_cast<Nearest*>(memory + at.partials);
  args.records = reinterpret_cast<ClassBest*>(memory + at.records);
  args.losers = reinterpret_cast<float*>(memory + at.losers);
  args.centre = reinterpret_cast<float*>(memory + at.centre);
  args.code_image = memory + at.codes;
  args.row_image = memory + at.rows;
  args.row_facts = reinterpret_cast<RowFacts*>(memory + at.row_facts);
  if (way != SearchWay::kExact && !args.plan.scan_in_finish) {
    args.open = reinterpret_cast<int*>(memory + at.open);
  }

  for (int64_t first = 0; first < call.num_rows; first += args.plan.chunk_rows) {
    const int64_t rest = call.num_rows - first;
    args.first_row = first;
    args.num_rows = rest < args.plan.chunk_rows ? rest : args.plan.chunk_rows;
    if (way == SearchWay::kDirect) {
      error = search_direct(args, stream);
    } else if (way != SearchWay::kExact) {
      error = pack_images(args, first == 0, stream);
      if (error != cudaSuccess) return error;
      error = way == SearchWay::kWgmma ? search_wgmma(args, stream) : search_mma(args, stream);
    }
    if (error != cudaSuccess) return error;
    if (way != SearchWay::kExact) {
      error = finish_search(args, stream);
      if (error != cudaSuccess) return error;
    }
    if (!args.plan.scan_in_finish) error = search_exact(args, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace cuda
}  // namespace vqgan_fast
