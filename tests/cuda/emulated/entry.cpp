// C functions over the host launchers of csrc/kernels/cuda, for the tests to call through ctypes.
// An op may bring its own entry_<op>.cpp.
#include "entry.h"

#include <cstdint>

#include "kernels/cpu/nearest_code_oracle.h"
#include "kernels/cuda/code_order.cuh"
#include "kernels/cuda/codebook_stats.cuh"
#include "kernels/cuda/tiling.h"
#include "kernels/cuda/vector_quantize.cuh"

using vqgan_fast::DType;
using vqgan_fast::Rows;

extern "C" {

void set_emulation(int multiprocessors, int schedule) {
  emulated::multiprocessors = multiprocessors;
  emulated::schedule = schedule;
}

int sort_passes(int64_t num_codes) { return vqgan_fast::sort_passes(num_codes); }

int64_t row_offset(const Rows* rows, int64_t row) { return vqgan_fast::row_offset(*rows, row); }

// Folds (distance, code) pairs with `nearer`, in the order given.
void fold_nearest(const double* distances, const int64_t* codes, int64_t count, double* distance,
                  int64_t* code) {
  vqgan_fast::Nearest best{0.0, -1};
  for (int64_t i = 0; i < count; ++i) {
    best = vqgan_fast::nearer(best, vqgan_fast::Nearest{distances[i], codes[i]});
  }
  *distance = best.distance;
  *code = best.code;
}

void oracle(const double* z, const double* codebook, int64_t num_rows, int64_t num_codes,
            int64_t dim, int64_t* indices, double* distances) {
  vqgan_fast::nearest_code_oracle(z, codebook, num_rows, num_codes, dim, indices, distances);
}

int straight_through(const Rows* z, const Rows* codebook, const int64_t* indices, int64_t num_rows,
                     int64_t dim, int promoted, const Rows* z_q) {
  vqgan_fast::cuda::StraightThroughArgs args;
  args.z = *z;
  args.codebook = *codebook;
  args.indices = indices;
  args.num_rows = num_rows;
  args.dim = dim;
  args.promoted = static_cast<DType>(promoted);
  args.z_q = *z_q;
  return vqgan_fast::cuda::straight_through(args, nullptr);
}

int mean_distance(const double* distances, int64_t count, double divisor, void* commitment_loss,
                  void* codebook_loss, int loss_dtype) {
  Workspace workspace(vqgan_fast::cuda::mean_workspace_doubles(count) * sizeof(double));
  return vqgan_fast::cuda::mean_distance(distances, count, divisor,
                                         static_cast<double*>(workspace.data()), commitment_loss,
                                         codebook_loss, static_cast<DType>(loss_dtype), nullptr);
}

int order_by_code(const int64_t* indices, int64_t num_rows, int64_t num_codes, int64_t* order,
                  int64_t* starts) {
  Workspace workspace(vqgan_fast::cuda::code_order_workspace_bytes(num_rows, num_codes));
  vqgan_fast::cuda::CodeOrder rows;
  const cudaError_t error = vqgan_fast::cuda::order_by_code(indices, num_rows, num_codes,
                                                            workspace.data(), &rows, nullptr);
  for (int64_t i = 0; i < num_rows; ++i) order[i] = rows.order[i];
  for (int64_t k = 0; k <= num_codes; ++k) starts[k] = rows.starts[k];
  return error;
}

int codebook_stats(const Rows* z, const int64_t* order, const int64_t* starts, int64_t num_rows,
                   int64_t num_codes, int64_t dim, int64_t* counts, void* sums, int sums_dtype) {
  vqgan_fast::cuda::CodebookStatsArgs args;
  args.z = *z;
  args.rows = {order, starts};
  args.num_rows = num_rows;
  args.num_codes = num_codes;
  args.dim = dim;
  args.counts = counts;
  args.sums = sums;
  args.sums_dtype = static_cast<DType>(sums_dtype);
  return vqgan_fast::cuda::codebook_stats(args, nullptr);
}

int grad_z(const Rows* grad_z_q, const float* grad_commitment, const Rows* z, const Rows* codebook,
           const int64_t* indices, int64_t num_rows, int64_t num_codes, int64_t dim,
           double per_element, const Rows* grad_z) {
  vqgan_fast::cuda::GradZArgs args;
  if (grad_z_q != nullptr) args.grad_z_q = *grad_z_q;
  args.grad_commitment = grad_commitment;
  args.z = *z;
  args.codebook = *codebook;
  args.indices = indices;
  args.num_rows = num_rows;
  args.num_codes = num_codes;
  args.dim = dim;
  args.per_element = per_element;
  args.grad_z = *grad_z;
  return vqgan_fast::cuda::grad_z(args, nullptr);
}

int grad_codebook(const float* grad_codebook_loss, const Rows* z, const Rows* codebook,
                  const int64_t* order, const int64_t* starts, int64_t num_codes, int64_t dim,
                  double per_element, const Rows* grad_codebook) {
  vqgan_fast::cuda::GradCodebookArgs args;
  args.grad_codebook_loss = grad_codebook_loss;
  args.z = *z;
  args.codebook = *codebook;
  args.rows = {order, starts};
  args.num_codes = num_codes;
  args.dim = dim;
  args.per_element = per_element;
  args.grad_codebook = *grad_codebook;
  return vqgan_fast::cuda::grad_codebook(args, nullptr);
}

}  // extern "C"
