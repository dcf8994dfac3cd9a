// The schemas of every op. csrc/ops/<op>_cpu.cpp and <op>_cuda.cpp register what runs; the fake
// kernels and autograd are registered from vqgan_fast/ops/<op>.py.
#include <torch/csrc/stable/library.h>

#include "build_config.h"

STABLE_TORCH_LIBRARY(vqgan_fast, m) {
  m.def(
      "nearest_code(Tensor z, Tensor codebook, bool exact) -> (Tensor indices, Tensor distances)");
  m.def(
      "vector_quantize(Tensor z, Tensor codebook, bool exact) -> "
      "(Tensor z_q, Tensor indices, Tensor commitment_loss, Tensor codebook_loss)");
  m.def(
      "vector_quantize_backward(Tensor? grad_z_q, Tensor grad_commitment, "
      "Tensor grad_codebook_loss, Tensor z, Tensor codebook, Tensor indices, "
      "bool need_grad_z, bool need_grad_codebook) -> (Tensor grad_z, Tensor grad_codebook)");
  m.def("codebook_stats(Tensor z, Tensor indices, int num_codes) -> (Tensor counts, Tensor sums)");
  m.def(
      "packed_linear(Tensor x, Tensor weight, Tensor? scales, Tensor? bias, int out_features, "
      "bool gelu) -> Tensor");
  m.def("layer_norm(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor");
  m.def(
      "window_attention(Tensor q, Tensor k, Tensor v, Tensor(a!) k_cache, Tensor(b!) v_cache, "
      "Tensor slots, Tensor positions, Tensor ends) -> Tensor");
  m.def(
      "grid_attention(Tensor q, Tensor k, Tensor v, Tensor(a!) k_cache, Tensor(b!) v_cache, "
      "Tensor slots, Tensor rows, Tensor columns, int width, int up, int left, int right) -> "
      "Tensor");
  m.def(
      "decode_layers(Tensor x, Tensor[] weights, Tensor[] scales, float eps, "
      "Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor slots, Tensor positions, Tensor ends) -> "
      "Tensor");
  m.def(
      "decode_grid_layers(Tensor x, Tensor[] weights, Tensor[] scales, float eps, "
      "Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor slots, Tensor rows, Tensor columns, "
      "Tensor cos, Tensor sin, int width, int up, int left, int right) -> Tensor");
  m.def(
      "sample_logits(Tensor logits, Tensor seeds, Tensor cells, Tensor? uncond_logits, "
      "float guidance, float temperature, int top_k, float top_p, float log_min_p) -> "
      "(Tensor codes, Tensor logprobs)");
  m.def(
      "soft_assign(Tensor z, Tensor codebook, Tensor? values, Tensor? bias, Tensor? seed, "
      "float temperature, bool squared, bool need_entropy, bool need_mean, bool need_indices) -> "
      "(Tensor log_sum_exp, Tensor expected, Tensor entropy, Tensor mean_probability, "
      "Tensor indices, Tensor statistics)");
  m.def(
      "soft_assign_backward(Tensor? grad_log_sum_exp, Tensor? grad_expected, Tensor? grad_entropy, "
      "Tensor? grad_mean_probability, Tensor z, Tensor codebook, Tensor? values, Tensor? bias, "
      "Tensor? seed, Tensor expected, Tensor statistics, float temperature, "
      "bool squared, bool need_z, bool need_codebook, bool need_values, bool need_bias) -> "
      "(Tensor grad_z, Tensor grad_codebook, Tensor grad_values, Tensor grad_bias)");
}

// The toolkit that compiled libvqgan_fast_cuda.so, "13.0.88", or "" where it was not built. Asked
// through ctypes, because that library must not be loaded before the driver is known to fit.
extern "C" __attribute__((visibility("default"))) const char* vqgan_fast_cuda_version() {
  return VQGAN_FAST_CUDA_VERSION;
}
