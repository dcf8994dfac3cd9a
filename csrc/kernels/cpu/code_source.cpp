#include "kernels/cpu/code_source.h"

#include <cstring>

#include "kernels/cpu/row_block.h"
#include "kernels/cpu/row_tiles.h"

namespace vqgan_fast {

CodeSource CodeSource::unchecked() const {
  CodeSource source = *this;
  source.tree = nullptr;
  return source;
}

void CodeReader::load(int64_t first, int64_t count, double* out) {
  const int64_t dim = source_.dim;
  // Chosen codes do not lie beside each other.
  const int64_t step = source_.chosen ? 1 : count;
  for (int64_t done = 0; done < count; done += step) {
    int64_t place = first + done;
    const Rows& rows = find(&place, step);
    load_rows(rows, place, step, dim, out + done * dim);
  }
}

const char* CodeReader::bytes(int64_t code) {
  const Rows& rows = find(&code, 1);
  const char* const first = element_at(rows, rows.offset(code));
  if (rows.element_stride == 1) return first;
  const int64_t size = bytes_of(rows.dtype);
  code_.resize(source_.dim * size);
  for (int64_t d = 0; d < source_.dim; ++d) {
    std::memcpy(code_.data() + d * size, first + d * rows.element_stride * size, size);
  }
  return code_.data();
}

const Rows& CodeReader::find(int64_t* first, int64_t count) {
  if (source_.chosen) *first = (*source_.chosen)[*first];
  if (source_.tree == nullptr) return source_.codebook;
  if (*first < held_.first || *first + count > held_.first + held_.count) {
    if (!source_.tree->copy_rows(*first, count, &held_)) *source_.changed = true;
  }
  *first -= held_.first;
  return held_.rows;
}

}  // namespace vqgan_fast
