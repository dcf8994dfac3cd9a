#include "kernels/cpu/screen_distinct.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "kernels/cpu/row_block.h"
#include "kernels/cpu/row_loops.h"

namespace vqgan_fast {
namespace {

// With fewer equal codes than one in so many, nothing is gained by leaving them out.
constexpr int64_t kLeastEqualShare = 4;

// Codes by their bytes: equal bytes are equal elements (-0.0 and 0.0 count as different, which
// costs nothing but time).
class CodeTable {
 public:
  CodeTable(const CodeSource& source, int64_t most_codes)
      : reader_(source),
        kept_reader_(source.unchecked()),
        code_bytes_(source.dim * bytes_of(source.codebook.dtype)) {
    size_t size = 16;
    while (size < 2 * static_cast<size_t>(most_codes)) size *= 2;
    slots_.assign(size, -1);
    codes_.reserve(most_codes);
    hashes_.reserve(most_codes);
  }

  // Whether no code that was added before equals this one; then it is kept.
  bool add(int64_t code) {
    const char* bytes = reader_.bytes(code);
    const ContentHash hash = hash_bytes(bytes, code_bytes_);
    const size_t mask = slots_.size() - 1;
    for (size_t slot = hash.low & mask;; slot = (slot + 1) & mask) {
      const int32_t kept = slots_[slot];
      if (kept < 0) {
        slots_[slot] = static_cast<int32_t>(codes_.size());
        codes_.push_back(code);
        hashes_.push_back(hash);
        return true;
      }
      // The code that was kept is read where it lies: its block again, for each code that equals
      // it, would be too much. If it was written to meanwhile, the hashes tell, which are of what
      // the reader checked.
      if (hashes_[kept] == hash &&
          std::memcmp(kept_reader_.bytes(codes_[kept]), bytes, code_bytes_) == 0) {
        return false;
      }
    }
  }

  int64_t size() const { return static_cast<int64_t>(codes_.size()); }
  std::vector<int64_t> take_codes() { return std::move(codes_); }

 private:
  CodeReader reader_, kept_reader_;
  const int64_t code_bytes_;
  std::vector<int32_t> slots_;  // places in the lists of what is kept, or -1
  std::vector<int64_t> codes_;
  std::vector<ContentHash> hashes_;
};

// Codes at 2 sqrt(K) random places: where each code is there c times, about 2 (c - 1) pairs of them
// are equal. They cost little beside packing.
bool sample_has_equal(const CodeSource& source) {
  const int64_t num_codes = source.num_codes;
  const auto count = static_cast<int64_t>(2.0 * std::sqrt(static_cast<double>(num_codes)));
  CodeTable table(source.unchecked(), count);
  std::vector<char> taken(num_codes);
  std::minstd_rand random;
  for (int64_t i = 0; i < count; ++i) {
    const auto code = static_cast<int64_t>(random()) % num_codes;
    if (std::exchange(taken[code], 1) == 0 && !table.add(code)) return true;
  }
  return false;
}

class DistinctScreen final : public CodeScreen {
 public:
  // Without `inner` there is a single code, the nearest of every row.
  DistinctScreen(std::shared_ptr<const CodeScreen> inner, std::vector<int64_t> codes)
      : inner_(std::move(inner)), codes_(std::move(codes)) {}

  std::unique_ptr<Worker> worker() const override {
    return std::make_unique<DistinctWorker>(inner_ ? inner_->worker() : nullptr, codes_);
  }
  int64_t block_rows() const override {
    return inner_ ? inner_->block_rows() : CodeScreen::block_rows();
  }
  size_t bytes() const override {
    return (inner_ ? inner_->bytes() : 0) + codes_.size() * sizeof(int64_t);
  }
  int64_t num_panels() const override { return inner_ ? inner_->num_panels() : 1; }

 private:
  class DistinctWorker final : public Worker {
   public:
    DistinctWorker(std::unique_ptr<Worker> inner, const std::vector<int64_t>& codes)
        : inner_(std::move(inner)), codes_(codes) {}

    void run(const double* z, int64_t num_rows, int64_t first_panel, int64_t last_panel,
             RowCandidates* out) override {
      if (inner_) {
        inner_->run(z, num_rows, first_panel, last_panel, out);
      } else {
        for (int64_t r = 0; r < num_rows; ++r) {
          out[r].open = false;
          out[r].count = first_panel < last_panel ? 1 : 0;
          out[r].codes[0] = 0;
        }
      }
      for (int64_t r = 0; r < num_rows; ++r) {
        for (int i = 0; i < out[r].count; ++i) out[r].codes[i] = codes_[out[r].codes[i]];
        for (int64_t& code : out[r].many) code = codes_[code];
      }
    }
    bool outdone() const override { return inner_ && inner_->outdone(); }

   private:
    std::unique_ptr<Worker> inner_;
    const std::vector<int64_t>& codes_;
  };

  std::shared_ptr<const CodeScreen> inner_;
  std::vector<int64_t> codes_;  // the first of each, ascending
};

bool is_finite_code(const CodeSource& source, int64_t code) {
  std::vector<double> elements(source.dim);
  CodeReader(source).load(code, 1, elements.data());
  return all_finite(elements.data(), source.dim);
}

// The first of each, ascending; none if too few are equal.
std::vector<int64_t> distinct_codes(const CodeSource& source) {
  const int64_t most = source.num_codes - source.num_codes / kLeastEqualShare;
  CodeTable table(source, most + 1);
  for (int64_t code = 0; code < source.num_codes && table.size() <= most; ++code) table.add(code);
  if (table.size() > most) return {};
  std::vector<int64_t> codes = table.take_codes();
  codes.shrink_to_fit();
  return codes;
}

}  // namespace

std::shared_ptr<const CodeScreen> make_screen_distinct(MakeScreen make, const CodeSource& source,
                                                       SimdLevel level, const Parallel& parallel) {
  const bool countable = source.num_codes <= std::numeric_limits<int32_t>::max();
  std::vector<int64_t> codes;
  if (countable && sample_has_equal(source)) codes = distinct_codes(source);
  if (codes.empty()) return make(source, level, parallel);
  const CodeSource distinct = source.only(codes);
  auto screen = make(distinct, level, parallel);
  const bool single = codes.size() == 1 && is_finite_code(distinct, 0);
  if (!screen && !single) return nullptr;
  return std::make_shared<DistinctScreen>(std::move(screen), std::move(codes));
}

}  // namespace vqgan_fast
