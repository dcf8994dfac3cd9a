// The codes as whoever packs them reads them.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "kernels/cpu/content_hash.h"
#include "kernels/cpu/rows.h"

namespace vqgan_fast {

// What is packed to be kept must be what was hashed, even if another thread writes to the codebook
// meanwhile. The blocks of a few codes, or where columns lie in memory a row of blocks, are copied,
// compared with their hashes and packed before the next ones: no more than that is held twice.
struct ContentCheck {
  const ContentTree& tree;
  std::atomic<bool> changed{false};  // something that was read differed
};

struct CodeSource {
  Rows codebook;
  int64_t num_codes = 0;
  int64_t dim = 0;
  // If given, these codes of the codebook alone, num_codes of them.
  const std::vector<int64_t>* chosen = nullptr;
  // If given, the codebook is its tree's matrix, and all that is read is compared.
  ContentCheck* check = nullptr;

  CodeSource unchecked() const;
  // The same with these codes of the codebook alone, which must outlive it.
  CodeSource only(const std::vector<int64_t>& codes) const;
  // What the codebook calls these codes of the source.
  std::vector<int64_t> in_codebook(std::vector<int64_t> codes) const;
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
  struct Place {
    const Rows& rows;
    int64_t row;
  };
  // Where these codes of the codebook can be read.
  Place find(int64_t first, int64_t count);
  int64_t in_codebook(int64_t code) const {
    return source_.chosen ? (*source_.chosen)[code] : code;
  }

  const CodeSource source_;
  HeldRows held_;
  std::vector<char> code_;
};

}  // namespace vqgan_fast
