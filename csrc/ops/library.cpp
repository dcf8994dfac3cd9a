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
}

// The toolkit that compiled libvqgan_fast_cuda.so, "13.0.88", or "" where it was not built. Asked
// through ctypes, because that library must not be loaded before the driver is known to fit.
extern "C" __attribute__((visibility("default"))) const char* vqgan_fast_cuda_version() {
  return VQGAN_FAST_CUDA_VERSION;
}
