#include "kernels/cpu/sample_logits.h"

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/float_mode.h"

namespace vqgan_fast {
namespace {

const SampleLoops& loops_of(SimdLevel level) {
#ifdef VQGAN_FAST_HAS_SAMPLE_LOGITS_AVX2
  if (level >= SimdLevel::kAvx2) return kSampleLoopsAvx2;
#endif
  static_cast<void>(level);
  return kSampleLoopsBaseline;
}

// The codes that may still be drawn, ascending, with their scores and weights.
struct Candidates {
  std::vector<uint32_t> codes;
  std::vector<double> scores;
  std::vector<uint64_t> weights;

  int64_t size() const { return static_cast<int64_t>(codes.size()); }

  template <class Keep>
  void keep(const Keep& keep) {
    size_t kept = 0;
    for (size_t i = 0; i < codes.size(); ++i) {
      if (!keep(i)) continue;
      codes[kept] = codes[i];
      scores[kept++] = scores[i];
    }
    codes.resize(kept);
    scores.resize(kept);
  }
};

// Keeps the shortest prefix of the ranking whose weight reaches `share`: a candidate stays if those
// ranked before it (higher scores, and equal ones of lower codes) weigh less than that. Ranks are
// looked at a digit at a time, among those that still share all digits of the last one to stay.
void keep_likeliest(Candidates* candidates, double share) {
  std::vector<uint32_t> open(candidates->codes.size()), next;
  for (size_t i = 0; i < open.size(); ++i) open[i] = static_cast<uint32_t>(i);
  uint64_t before = 0, last = 0;  // weight before the open ones, and their common digits
  for (int shift = 64 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    uint64_t sums[kDigits] = {}, counts[kDigits] = {};
    const auto digit = [&](uint32_t i) {
      return (rank_of(candidates->scores[i]) >> shift) & (kDigits - 1);
    };
    for (const uint32_t i : open) {
      sums[digit(i)] += candidates->weights[i];
      ++counts[digit(i)];
    }
    uint64_t sum = before;
    uint64_t chosen = 0;
    for (uint64_t d = 0; d < kDigits; ++d) {
      if (counts[d] > 0 && static_cast<double>(sum) < share) {
        chosen = d;
        before = sum;
      }
      sum += sums[d];
    }
    last |= chosen << shift;
    next.clear();
    for (const uint32_t i : open) {
      if (digit(i) == chosen) next.push_back(i);
    }
    open.swap(next);
  }
  candidates->keep([&](size_t i) {
    const uint64_t rank = rank_of(candidates->scores[i]);
    if (rank != last) return rank < last;
    const bool stays = static_cast<double>(before) < share;
    before += candidates->weights[i];
    return stays;
  });
}

void filter(const DrawRule& rule, const SampleLoops& loops, Candidates* candidates) {
  if (rule.top_k > 0 && rule.top_k < candidates->size()) {
    candidates->weights.assign(candidates->codes.size(), 1);
    keep_likeliest(candidates, static_cast<double>(rule.top_k));
  }
  if (rule.top_p < 1.0) {
    candidates->weights.resize(candidates->codes.size());
    loops.masses(candidates->scores.data(), candidates->size(), candidates->weights.data());
    uint64_t total = 0;
    for (const uint64_t mass : candidates->weights) total += mass;
    keep_likeliest(candidates, rule.top_p * static_cast<double>(total));
  }
  if (rule.log_min_p > -std::numeric_limits<double>::infinity()) {
    candidates->keep([&](size_t i) { return candidates->scores[i] >= rule.log_min_p; });
  }
}

// The first of the largest.
int64_t argmax(const double* values, int64_t count) {
  int64_t best = 0;
  for (int64_t i = 1; i < count; ++i) best = values[i] > values[best] ? i : best;
  return best;
}

void sample_row(const SampleLogitsArgs& args, const SampleLoops& loops, int64_t row,
                std::vector<double>* relative, Candidates* candidates) {
  const int64_t count = args.num_codes;
  const float* uncond = args.uncond_logits;
  if (uncond != nullptr) uncond += row * args.uncond_stride;
  const double largest = loops.relative(args.logits + row * args.logits_stride, uncond,
                                        args.rule.guidance, count, relative->data());
  if (!std::isfinite(largest)) {
    args.codes[row] = -1;
    args.logprobs[row] = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  int64_t code;
  if (args.rule.greedy()) {
    code = argmax(relative->data(), count);
  } else {
    candidates->codes.resize(count);
    candidates->scores.resize(count);
    for (int64_t v = 0; v < count; ++v) candidates->codes[v] = static_cast<uint32_t>(v);
    loops.divide(relative->data(), args.rule.temperature, count, candidates->scores.data());
    filter(args.rule, loops, candidates);
    double* scores = candidates->scores.data();
    loops.add_noise(scores, candidates->codes.data(), candidates->size(),
                    static_cast<uint64_t>(args.seeds[row]), static_cast<uint32_t>(args.cells[row]),
                    scores);
    code = candidates->codes[argmax(scores, candidates->size())];
  }
  const double total = static_cast<double>(loops.total_mass(relative->data(), count));
  args.codes[row] = code;
  args.logprobs[row] = static_cast<float>((*relative)[code] - log_of_positive(total / kFixedPoint));
}

}  // namespace

void sample_logits(const SampleLogitsArgs& args, SimdLevel level, const Parallel& parallel) {
  const SampleLoops& loops = loops_of(level);
  parallel.run(0, args.rows, 1, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    std::vector<double> relative(args.num_codes);
    Candidates candidates;
    for (int64_t row = begin; row < end; ++row) {
      sample_row(args, loops, row, &relative, &candidates);
    }
  });
}

}  // namespace vqgan_fast
