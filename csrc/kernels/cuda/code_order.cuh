// The rows of z in the order of their codes: what sums over the rows of each code stand on.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace vqgan_fast {
namespace cuda {

// Rows order[starts[k]] .. order[starts[k + 1] - 1] are those with index k, ascending. Rows whose
// index is not in 0 .. num_codes - 1 come last, from starts[num_codes] on.
struct CodeOrder {
  const int64_t* order;   // num_rows
  const int64_t* starts;  // num_codes + 1
};

size_t code_order_workspace_bytes(int64_t num_rows, int64_t num_codes);

// A stable counting sort, 8 bits of the index at a time: the same result on every run. num_rows and
// num_codes at least 1; workspace 16-byte aligned. The result lies in the workspace.
cudaError_t order_by_code(const int64_t* indices, int64_t num_rows, int64_t num_codes,
                          void* workspace, CodeOrder* result, cudaStream_t stream);

}  // namespace cuda
}  // namespace vqgan_fast
