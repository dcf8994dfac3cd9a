#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <tuple>

#include "kernels/cpu/nearest_code.h"
#include "kernels/cpu/nearest_code_counters.h"
#include "kernels/cpu/nearest_code_oracle.h"
#include "ops/checks.h"
#include "ops/parallel_cpu.h"
#include "ops/tensor_rows.h"

namespace vqgan_fast::ops {
namespace {

std::tuple<Tensor, Tensor> nearest_code_cpu(const Tensor& z, const Tensor& codebook,
                                            bool /*exact*/) {
  const SearchSizes sizes = check_search(z, codebook);
  const ScalarType distance_type = accumulation_type(z, codebook);
  Tensor indices = empty_on_cpu(index_shape(z), ScalarType::Long);
  Tensor distances = empty_on_cpu(index_shape(z), distance_type);
  Tensor holder;
  const int64_t distance_bytes = static_cast<int64_t>(distances.element_size());
  for (int64_t h = 0; h < sizes.num_heads; ++h) {
    NearestCodeArgs args;
    args.z = codebook.dim() == 2 ? rows_of(z, &holder) : head_rows(z, h);
    args.codebook = head_rows(codebook, h);
    args.num_rows = sizes.num_rows;
    args.num_codes = sizes.num_codes;
    args.dim = sizes.dim;
    args.indices = static_cast<int64_t*>(indices.data_ptr()) + h * sizes.num_rows;
    args.distances = static_cast<char*>(distances.data_ptr()) + h * sizes.num_rows * distance_bytes;
    args.distance_dtype = dtype_of(distance_type);
    nearest_code(args, torch_parallel());
  }
  return {indices, distances};
}

// z (N, D) and codebook (K, D) -> indices (N) and fp64 distances (N), by the scalar definition.
std::tuple<Tensor, Tensor> nearest_code_oracle_cpu(const Tensor& z, const Tensor& codebook) {
  const SearchSizes sizes = check_search(z, codebook);
  VQGAN_FAST_CHECK(codebook.dim() == 2, "codebook must be (K, D), got ", shape_text(codebook));
  const auto as_fp64 = [](const Tensor& t) {
    return torch::stable::contiguous(torch::stable::to(t, ScalarType::Double));
  };
  const Tensor z64 = as_fp64(z), codebook64 = as_fp64(codebook);
  Tensor indices = torch::stable::new_empty(z64, index_shape(z), ScalarType::Long);
  Tensor distances = torch::stable::new_empty(z64, index_shape(z));
  nearest_code_oracle(static_cast<const double*>(z64.data_ptr()),
                      static_cast<const double*>(codebook64.data_ptr()), sizes.num_rows,
                      sizes.num_codes, sizes.dim, static_cast<int64_t*>(indices.data_ptr()),
                      static_cast<double*>(distances.data_ptr()));
  return {indices, distances};
}

// counts (12) int64 += the counters, in the order of NearestCodeCounters; then they are 0 if
// `reset`.
Tensor nearest_code_counters_cpu(const Tensor& counts, bool reset) {
  NearestCodeCounters& counters = nearest_code_counters();
  auto* count = static_cast<int64_t*>(counts.data_ptr());
  for (std::atomic<int64_t>* counter :
       {&counters.calls_direct, &counters.calls_fp32, &counters.calls_int16, &counters.calls_int8,
        &counters.calls_boxes, &counters.calls_clusters, &counters.calls_cached,
        &counters.rows_screen, &counters.rows_candidates, &counters.rows_direct,
        &counters.rows_scan, &counters.rows_not_finite}) {
    *count++ += reset ? counter->exchange(0) : counter->load();
  }
  return counts;
}

}  // namespace
}  // namespace vqgan_fast::ops

// No ops of the library, so their schemas stand here: nearest_code once more, of which no gradient
// is asked (its autograd, in Python, takes as long as the search of a row); the oracle, for the
// tests alone; the counters, for vqgan_fast.ops.nearest_code_counters.
STABLE_TORCH_LIBRARY_FRAGMENT(vqgan_fast, m) {
  m.def(
      "_nearest_code_no_grad(Tensor z, Tensor codebook, bool exact) -> (Tensor indices, Tensor "
      "distances)");
  m.def("_nearest_code_oracle(Tensor z, Tensor codebook) -> (Tensor indices, Tensor distances)");
  m.def("_nearest_code_counters(Tensor(a!) counts, bool reset) -> Tensor(a!)");
}

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CPU, m) {
  m.impl("nearest_code", TORCH_BOX(&vqgan_fast::ops::nearest_code_cpu));
  m.impl("_nearest_code_no_grad", TORCH_BOX(&vqgan_fast::ops::nearest_code_cpu));
  m.impl("_nearest_code_counters", TORCH_BOX(&vqgan_fast::ops::nearest_code_counters_cpu));
  m.impl("_nearest_code_oracle", TORCH_BOX(&vqgan_fast::ops::nearest_code_oracle_cpu));
}
