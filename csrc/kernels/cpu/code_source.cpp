#include "kernels/cpu/code_source.h"

#include <cstring>

#include "kernels/cpu/row_block.h"
#include "kernels/cpu/row_tiles.h"

namespace vqgan_fast {

CodeSource CodeSource::unchecked() const {
  CodeSource source = *this;
  source.check = nullptr;
  return source;
}

CodeSource CodeSource::only(const std::vector<int64_t>& codes) const {
  CodeSource source = *this;
  source.num_codes = static_cast<int64_t>(codes.size());
  source.chosen = &codes;
  return source;
}

std::vector<int64_t> CodeSource::in_codebook(std::vector<int64_t> codes) const {
  if (chosen == nullptr) return codes;
  for (int64_t& code : codes) code = (*chosen)[code];
  return codes;
}

void CodeReader::load(int64_t first, int64_t count, double* out) {
  // Chosen codes do not lie beside each other.
  const int64_t step = source_.chosen ? 1 : count;
  for (int64_t done = 0; done < count; done += step) {
    const Place place = find(in_codebook(first + done), step);
    load_rows(place.rows, place.row, step, source_.dim, out + done * source_.dim);
  }
}

const char* CodeReader::bytes(int64_t code) {
  const Place place = find(in_codebook(code), 1);
  const Rows& rows = place.rows;
  const char* const first = element_at(rows, rows.offset(place.row));
  if (rows.element_stride == 1) return first;
  const int64_t size = bytes_of(rows.dtype);
  code_.resize(source_.dim * size);
  for (int64_t d = 0; d < source_.dim; ++d) {
    std::memcpy(code_.data() + d * size, first + d * rows.element_stride * size, size);
  }
  return code_.data();
}

CodeReader::Place CodeReader::find(int64_t first, int64_t count) {
  if (source_.check == nullptr) return {source_.codebook, first};
  if (first < held_.first || first + count > held_.first + held_.count) {
    if (!source_.check->tree.copy_rows(first, count, &held_)) source_.check->changed = true;
  }
  return {held_.rows, first - held_.first};
}

}  // namespace vqgan_fast
