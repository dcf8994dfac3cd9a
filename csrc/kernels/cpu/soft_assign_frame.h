// What soft_assign measures from, and how precisely it multiplies: both follow from the data, so
// that neither an offset nor a low temperature costs accuracy.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/soft_assign_problem.h"

namespace vqgan_fast {

// The mean of the rows where it is large beside their scatter, so that what is measured from it
// keeps digits; else nothing: subtracting it would only round.
std::vector<double> offset_of_rows(const Rows& rows, int64_t count, int64_t dim,
                                   const Parallel& parallel);

inline const double* or_null(const std::vector<double>& centre) {
  return centre.empty() ? nullptr : centre.data();
}

// `centre` is of the codes, and of the latents too if `squared`; empty for 0. A logit is
//
//   scale z'.e' + code_terms[k] + (what is the same for all codes, which row_constant tells),
//
// where z' and e' are measured from the centre, but not if `wide`: then they are as given, and the
// products and sums that make a logit are in fp64.
struct SoftFrame {
  std::vector<double> centre;
  std::vector<double> code_terms;
  double scale;
  bool wide = false;

  SoftFrame(const SoftAssignProblem& problem, const Parallel& parallel);

  const double* sum_centre() const { return or_null(centre); }
  const double* score_centre() const { return wide ? nullptr : sum_centre(); }

  // For a latent as given: what its logits lack.
  double row_constant(const SoftAssignProblem& problem, const double* z) const;

  // What is added to the logits of each latent to make log p of them, or log p + entropy.
  std::vector<double> latent_terms(const SoftAssignProblem& problem, const double* statistics,
                                   bool add_entropy, const Parallel& parallel) const;
};

}  // namespace vqgan_fast
