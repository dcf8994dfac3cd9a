// nearest_code on numpy arrays.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>

namespace vqgan_fast {

// z (..., N, D) and codebook (K, D) or (..., K, D) with the leading axes of z, float16, float32 or
// float64, any strides. Returns indices (..., N) int64 and squared distances (..., N), float64 if
// an input is, else float32; the distances are None unless asked for. Throws ValueError on anything
// else. The GIL is released during the search.
pybind11::tuple nearest_code_numpy(const pybind11::array& z, const pybind11::array& codebook,
                                   bool return_distance, int64_t num_threads);

}  // namespace vqgan_fast
