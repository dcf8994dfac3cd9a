// What soft_assign is asked, on any device.
#pragma once

#include <cstdint>

#include "kernels/cpu/rows.h"

namespace vqgan_fast {

// The logits of latent n and code k are
//
//   l = (s + bias_k + g_nk) / temperature,   s = z_n.e_k  or, if `squared`, -||z_n - e_k||^2
//
// where g is Gumbel noise if `noisy`. What has no data is not there.
struct SoftAssignProblem {
  Rows z;         // num_rows x dim
  Rows codebook;  // num_codes x dim
  Rows values;    // num_codes x value_dim, optional
  Rows bias;      // num_codes x 1, optional
  int64_t num_rows = 0;
  int64_t num_codes = 0;  // at least 1
  int64_t dim = 0;        // at least 1
  int64_t value_dim = 0;
  double temperature = 1.0;
  bool squared = false;
  bool noisy = false;
  uint64_t seed = 0;
  bool fp64 = false;  // computed in fp64, else in fp32
};

// Of each latent the backward pass takes from the forward pass: log_sum_exp, entropy, and the code
// of the largest logit, all fp64.
constexpr int64_t kSoftStatistics = 3;

// The mean of the codes is an offset if its square is at least this share of their mean square:
// what is measured from it keeps digits, where subtracting less would only round.
constexpr double kLeastOffset = 0.25;

// Logits above it are multiplied in fp64: in fp32 they would be off by some 1e-5.
constexpr double kLargestFp32Logit = 64.0;

}  // namespace vqgan_fast
