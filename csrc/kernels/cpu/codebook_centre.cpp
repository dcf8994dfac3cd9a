#include "kernels/cpu/codebook_centre.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/row_block.h"

namespace vqgan_fast {

std::vector<double> find_centre(const CodeSource& codes) {
  // Their mean is as far from that of all codes as an eighth of the codes' spread, which is near
  // enough; more would take longer than packing a small codebook.
  const int64_t num_codes = codes.num_codes, dim = codes.dim;
  const int64_t samples = std::min<int64_t>(num_codes, 64);
  std::vector<double> centre(dim, 0.0), code(dim);
  CodeReader reader(codes);
  int64_t taken = 0;
  for (int64_t i = 0; i < samples; ++i) {
    reader.load(i * num_codes / samples, 1, code.data());
    if (!all_finite(code.data(), dim)) continue;
    ++taken;
    for (int64_t d = 0; d < dim; ++d) centre[d] += code[d];
  }
  for (double& c : centre) {
    c /= static_cast<double>(std::max<int64_t>(taken, 1));
    if (!std::isfinite(c)) c = 0.0;
  }
  return centre;
}

}  // namespace vqgan_fast
