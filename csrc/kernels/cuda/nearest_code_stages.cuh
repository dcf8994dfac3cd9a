// The steps of nearest_code on CUDA, as nearest_code.cpp strings them together: each a launcher and
// what it reads and writes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cpu/rows.h"
#include "kernels/cuda/nearest_code_layout.h"
#include "kernels/cuda/nearest_code_plan.h"

namespace vqgan_fast {
namespace cuda {

// What the kernels tell each other about the codebook. Maxima are bits of floats that are not
// negative, which order as integers do.
struct CodebookFacts {
  unsigned largest;  // element of any e - c
  unsigned norm2;    // squared ImageError of the worst finite code, member by member
  unsigned residual2;
  unsigned low2;
  unsigned any_finite;  // code
  unsigned overflow;    // an e - c left fp32: no score can be trusted
  int open_rows;        // of this chunk: at the front of the list, for the fp64 search
  int crowded_rows;     // and at its end, of which it is known in which classes they can be nearest
};

// ImageError of a row, and 2^r, by which its image is larger than the codes'. Of a row that is not
// finite, scale is 0; of one that the images cannot hold, negative.
struct RowFacts {
  float scale;
  float norm;
  float residual;
  float low;
};

// A chunk of the search: rows first_row .. first_row + num_rows - 1 of z, counted from 0 below.
struct SearchArgs {
  Rows z;
  Rows codebook;
  int64_t first_row = 0;
  int64_t num_rows = 0;
  int64_t num_codes = 0;
  int64_t dim = 0;
  SearchPlan plan;
  int64_t blocks = 0;  // of a persistent kernel
  bool exact = true;

  CodebookFacts* facts = nullptr;
  float* centre = nullptr;
  unsigned char* code_image = nullptr;
  unsigned char* row_image = nullptr;
  RowFacts* row_facts = nullptr;
  ClassBest* records = nullptr;  // [split][row][class]
  // [split][row]: smallest score that no class kept; later, of a crowded row, the limit of scores.
  float* losers = nullptr;
  int* open = nullptr;
  Nearest* partials = nullptr;

  int64_t* indices = nullptr;  // of the whole z
  void* distances = nullptr;
  DType distance_dtype = DType::kFloat32;
};

// Centre and largest element of the codes.
cudaError_t find_facts(const SearchArgs& args, cudaStream_t stream);

// Both images. `codes`: the codebook's too, as the first chunk wants it, with its facts.
cudaError_t pack_images(const SearchArgs& args, bool codes, cudaStream_t stream);

// One of these fills records and losers.
cudaError_t search_direct(const SearchArgs& args, cudaStream_t stream);
cudaError_t search_mma(const SearchArgs& args, cudaStream_t stream);
#ifdef VQGAN_FAST_HAS_SM90A
cudaError_t search_wgmma(const SearchArgs& args, cudaStream_t stream);
#else
inline cudaError_t search_wgmma(const SearchArgs&, cudaStream_t) { return cudaErrorNotSupported; }
#endif

// Whether this build has code of them for the current device. A build for sm_75 alone runs on newer
// GPUs, but its mma.sync search is empty.
bool mma_is_compiled();
#ifdef VQGAN_FAST_HAS_SM90A
bool wgmma_is_compiled();
#else
inline bool wgmma_is_compiled() { return false; }
#endif

// Measures the codes that can be nearest; lists the rows of which not enough is known.
cudaError_t finish_search(const SearchArgs& args, cudaStream_t stream);

// The definition, over the listed rows of the chunk and the codes that they can be nearest to, or
// over all rows and codes if `open` is null.
cudaError_t search_exact(const SearchArgs& args, cudaStream_t stream);

}  // namespace cuda
}  // namespace vqgan_fast
