#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>

#include "kernels/cuda/decode.cuh"
#include "ops/cuda_launch.h"
#include "ops/sample_logits_args.h"

namespace vqgan_fast::ops {
namespace {

// A row that nothing can be drawn from has code -1 and log-probability NaN: raising would have to
// wait for the GPU.
std::tuple<Tensor, Tensor> sample_logits_cuda(const Tensor& logits, const Tensor& seeds,
                                              const Tensor& cells,
                                              std::optional<Tensor> uncond_logits, double guidance,
                                              double temperature, int64_t top_k, double top_p,
                                              double log_min_p) {
  LogitTensors tensors(logits, seeds, cells, uncond_logits,
                       {guidance, temperature, top_k, top_p, log_min_p});
  SampleLogitsArgs& args = tensors.args;
  Tensor codes = torch::stable::new_empty(logits, {args.rows}, ScalarType::Long);
  Tensor logprobs = torch::stable::new_empty(logits, {args.rows});
  if (args.rows == 0) return {codes, logprobs};
  const CudaContext context(logits);
  args.codes = static_cast<int64_t*>(codes.data_ptr());
  args.logprobs = floats_of(logprobs);
  const Tensor workspace =
      torch::stable::new_empty(logits, {args.rows, args.num_codes}, ScalarType::Double);
  check_cuda(
      cuda::sample_logits(args, static_cast<double*>(workspace.data_ptr()), context.stream()),
      "sample_logits");
  return {codes, logprobs};
}

}  // namespace
}  // namespace vqgan_fast::ops

STABLE_TORCH_LIBRARY_IMPL(vqgan_fast, CUDA, m) {
  m.impl("sample_logits", TORCH_BOX(&vqgan_fast::ops::sample_logits_cuda));
}
