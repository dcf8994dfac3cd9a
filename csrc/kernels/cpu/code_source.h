// The codes as whoever packs them reads them.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "kernels/cpu/content_hash.h"
#include "kernels/cpu/rows.h"

namespace vqgan_fast {

struct CodeSource {
  Rows codebook;
  int64_t num_codes = 0;
  int64_t dim = 0;
  // If given, these codes of the codebook alone, num_codes of them.
  const std::vector<int64_t>* chosen = nullptr;
  // If given, all that is read is compared with this, and *changed tells that something differed:
  // what is packed to be kept must be what was hashed, even if another thread writes to the
  // codebook meanwhile. A block is copied, compared and packed before the next one, so that no more
  // than that is ever held twice.
  const ContentTree* tree = nullptr;
  std::atomic<bool>* changed = nullptr;

  // The same codes, compared with nothing: for what decides about speed alone.
  CodeSource unchecked() const;
};

// Reads codes of a source, fastest in ascending order. For one thread.
class CodeReader {
 public:
  explicit CodeReader(const CodeSource& source) : source_(source) {}

  // out[i * dim + d] for the codes first .. first + count - 1.
  void load(int64_t first, int64_t count, double* out);
  // The elements of a code in their own type, valid until the next call.
  const char* bytes(int64_t code);

 private:
  // Memory where the codes lie, of which `first` becomes the place of the first one.
  const Rows& find(int64_t* first, int64_t count);

  const CodeSource source_;
  HeldRows held_;
  std::vector<char> code_;
};

}  // namespace vqgan_fast
