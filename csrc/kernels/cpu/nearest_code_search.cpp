#include "kernels/cpu/nearest_code_search.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>

#include "kernels/cpu/code_distances.h"
#include "kernels/cpu/direct_search.h"
#include "kernels/cpu/nearest_code_counters.h"
#include "kernels/cpu/row_block.h"
#include "kernels/cpu/row_tasks.h"

namespace vqgan_fast {
namespace {

// Where the screen left this share of a block open, the next blocks are left open as a whole; one
// in so many tries the screen again.
constexpr double kHopelessShare = 0.5;
constexpr int64_t kTryAgain = 32;
// The direct search is given codes in multiples of this.
constexpr int64_t kDirectUnit = 64;

// The direct search lays the codes into panels anew for each block: the more rows, the better,
// while they stay in the second-level cache.
int64_t direct_block_rows(int64_t dim) {
  constexpr int64_t kBlockElements = 32768;
  const int64_t steps = kBlockElements / dim / RowTasks::kRowStep;
  return RowTasks::kRowStep * std::clamp<int64_t>(steps, 4, 16);
}

// Some rows, ascending, and what is known of them. One for each thread.
class Block {
 public:
  Block(const NearestCodeArgs& args, const RowTasks& tasks)
      : rows(tasks.most_rows()),
        z(rows.size() * args.dim),
        finite(rows.size()),
        open(rows.size()),
        found(rows.size()),
        args_(args) {}

  void load(const RowList& list, int64_t first, int64_t count) {
    size = count;
    for (int64_t r = 0; r < count; ++r) rows[r] = list[first + r];
    std::fill_n(open.begin(), size, false);
    for_each_run([&](int64_t begin, int64_t end) {
      load_rows(args_.z, rows[begin], end - begin, args_.dim, z.data() + begin * args_.dim);
    });
    std::fill_n(found.begin(), size, Nearest());
    std::fill_n(finite.begin(), size, true);
    if (all_finite(z.data(), size * args_.dim)) return;
    for (int64_t r = 0; r < size; ++r) {
      double* values = z.data() + r * args_.dim;
      finite[r] = all_finite(values, args_.dim);
      if (!finite[r]) std::fill(values, values + args_.dim, 0.0);
    }
  }

  const double* row(int64_t r) const { return z.data() + r * args_.dim; }

  // Writes what was found for the rows that are not open.
  void finish() {
    for (int64_t r = 0; r < size; ++r) {
      if (!finite[r] && args_.take_rows) {
        load_rows(args_.z, rows[r], 1, args_.dim, z.data() + r * args_.dim);
      }
      if (open[r]) continue;
      found[r].index = std::max<int64_t>(found[r].index, 0);
      args_.indices[rows[r]] = found[r].index;
      if (args_.distances == nullptr) continue;
      if (args_.distance_dtype == DType::kFloat64) {
        static_cast<double*>(args_.distances)[rows[r]] = found[r].distance;
      } else {
        static_cast<float*>(args_.distances)[rows[r]] = static_cast<float>(found[r].distance);
      }
    }
    if (!args_.take_rows) return;
    for_each_run([&](int64_t begin, int64_t end) {
      if (open[begin]) return;
      args_.take_rows(rows[begin], end - begin, row(begin));
    });
  }

  int64_t size = 0;
  std::vector<int64_t> rows;
  std::vector<double> z;     // [row][dim]; zeros for a row that is not finite
  std::vector<char> finite;  // a row that is not has found nothing: index 0 and NaN
  std::vector<char> open;
  std::vector<Nearest> found;

 private:
  // Calls body(begin, end) for ranges of neighbouring rows, all open or none.
  template <class Body>
  void for_each_run(const Body& body) const {
    int64_t begin = 0;
    for (int64_t r = 1; r <= size; ++r) {
      if (r < size && rows[r] == rows[r - 1] + 1 && open[r] == open[r - 1]) continue;
      body(begin, r);
      begin = r;
    }
  }

  const NearestCodeArgs& args_;
};

// Where the codebook is cut: what each part found for each row, entry row * num_parts + part.
struct Partial {
  Nearest found;
  bool open = false;
};

void store_partial(const Block& block, const RowTasks& tasks, int64_t task,
                   std::vector<Partial>* partial) {
  for (int64_t r = 0; r < block.size; ++r) {
    (*partial)[(tasks.first_row(task) + r) * tasks.num_parts + tasks.part(task)] = {
        block.found[r], block.open[r] != 0};
  }
}

// The nearest of all parts for the rows of a block, the first of which has its parts at `partial`;
// open if a part is.
void merge_parts(const Partial* partial, int64_t num_parts, Block* block) {
  for (int64_t r = 0; r < block->size; ++r) {
    for (const Partial* part = partial + r * num_parts; part != partial + (r + 1) * num_parts;
         ++part) {
      block->open[r] |= part->open;
      if (part->found.index >= 0) block->found[r].offer(part->found.distance, part->found.index);
    }
  }
}

}  // namespace

std::vector<int64_t> screen_rows(const NearestCodeArgs& args, SimdLevel level,
                                 const CodeScreen& screen, bool is_last, const RowList& rows,
                                 const Parallel& parallel) {
  const int64_t num_rows = rows.count;
  const int64_t num_panels = screen.num_panels();
  const int64_t num_threads = useful_threads(num_rows, args.num_codes, args.dim, parallel);
  const RowTasks tasks(num_rows, num_panels, (args.num_codes + num_panels - 1) / num_panels,
                       num_threads, screen.block_rows());
  const bool cut = tasks.num_parts > 1;
  const bool measure_all = args.distances != nullptr || cut;
  std::vector<Partial> partial(cut ? num_rows * tasks.num_parts : 0);
  std::vector<char> open(num_rows, false);
  NearestCodeCounters& counters = nearest_code_counters();

  share_tasks(tasks.count(), num_threads, parallel, [&](const auto& next) {
    const std::unique_ptr<CodeScreen::Worker> worker = screen.worker();
    PairDistances pairs(args.codebook, args.dim, level);
    std::optional<DirectSearch> direct;  // of lists, which are rare
    Block block(args, tasks);
    std::vector<RowCandidates> candidates(tasks.most_rows());
    std::vector<int64_t> with_list;  // rows of many candidates
    int64_t num_proven = 0, num_measured = 0, num_not_finite = 0;
    int64_t blocks_to_skip = 0;
    for (int64_t task = next(); task >= 0; task = next()) {
      const int64_t first = tasks.first_row(task);
      if (blocks_to_skip > 0 && !cut) {
        --blocks_to_skip;
        std::fill_n(open.begin() + first, tasks.rows(task), true);
        for (int64_t r = 0; r < tasks.rows(task); ++r) args.indices[rows[first + r]] = -1;
        continue;
      }
      block.load(rows, first, tasks.rows(task));
      for (RowCandidates& row : candidates) {
        row.within2 = std::numeric_limits<double>::infinity();
      }
      worker->run(block.z.data(), block.size, tasks.first_unit(task), tasks.last_unit(task),
                  candidates.data());
      int64_t num_open = 0;
      with_list.clear();
      for (int64_t r = 0; r < block.size; ++r) {
        if (!block.finite[r]) {
          ++num_not_finite;
          continue;
        }
        const RowCandidates& row = candidates[r];
        if (row.open) {
          block.open[r] = true;
          ++num_open;
          if (!cut) args.indices[block.rows[r]] = row.count > 0 ? row.codes[0] : -1;
        } else if (row.count == 1 && !measure_all) {
          ++num_proven;
          block.found[r].index = row.codes[0];
        } else {
          ++(row.count == 1 ? num_proven : num_measured);
          for (int i = 0; i < row.count; ++i) {
            pairs.add(block.row(r), row.codes[i], &block.found[r]);
          }
          if (!row.many.empty()) with_list.push_back(r);
        }
      }
      pairs.flush();
      // Rows of one cluster after the other: its codes are near then.
      std::sort(with_list.begin(), with_list.end(), [&](int64_t a, int64_t b) {
        return candidates[a].many.front() < candidates[b].many.front();
      });
      if (!with_list.empty() && !direct) direct.emplace(args.codebook, args.dim, level);
      for (const int64_t r : with_list) {
        const std::vector<int64_t>& list = candidates[r].many;
        if (direct->run_listed(block.row(r), list, args.num_codes, &block.found[r])) continue;
        block.open[r] = true;
        ++num_open;
        --num_measured;
        if (!cut) args.indices[block.rows[r]] = list.front();
      }
      if (cut) {
        store_partial(block, tasks, task, &partial);
        continue;
      }
      std::copy_n(block.open.begin(), block.size, open.begin() + first);
      block.finish();
      const bool outdone = !is_last && worker->outdone();
      if (num_open > kHopelessShare * block.size || outdone) blocks_to_skip = kTryAgain;
    }
    if (!cut) {
      counters.rows_screen += num_proven;
      counters.rows_candidates += num_measured;
      counters.rows_not_finite += num_not_finite;
    }
  });

  if (cut) {
    Block block(args, tasks);
    for (int64_t task = 0; task < tasks.count(); task += tasks.num_parts) {
      const int64_t first = tasks.first_row(task);
      block.load(rows, first, tasks.rows(task));
      merge_parts(partial.data() + first * tasks.num_parts, tasks.num_parts, &block);
      for (int64_t r = 0; r < block.size; ++r) {
        open[first + r] = block.open[r];
        args.indices[block.rows[r]] = block.found[r].index;
        if (!block.finite[r]) {
          ++counters.rows_not_finite;
        } else if (!block.open[r]) {
          ++counters.rows_candidates;
        }
      }
      block.finish();
    }
  }
  std::vector<int64_t> open_rows;
  for (auto i = open.begin(); (i = std::find(i, open.end(), true)) != open.end(); ++i) {
    open_rows.push_back(rows[i - open.begin()]);
  }
  return open_rows;
}

void search_rows(const NearestCodeArgs& args, SimdLevel level, const RowList& rows,
                 const Parallel& parallel) {
  const int64_t num_rows = rows.count;
  if (num_rows == 0) return;
  const int64_t num_threads = useful_threads(num_rows, args.num_codes, args.dim, parallel);
  const RowTasks tasks(num_rows, (args.num_codes + kDirectUnit - 1) / kDirectUnit, kDirectUnit,
                       num_threads, direct_block_rows(args.dim));
  const bool cut = tasks.num_parts > 1;
  std::vector<Partial> partial(cut ? num_rows * tasks.num_parts : 0);
  NearestCodeCounters& counters = nearest_code_counters();

  share_tasks(tasks.count(), num_threads, parallel, [&](const auto& next) {
    DirectSearch search(args.codebook, args.dim, level);
    PairDistances pairs(args.codebook, args.dim, level);
    Block block(args, tasks);
    std::vector<const double*> z(tasks.most_rows());
    std::vector<Nearest*> found(tasks.most_rows());
    int64_t num_finite = 0, num_not_finite = 0;
    for (int64_t task = next(); task >= 0; task = next()) {
      block.load(rows, tasks.first_row(task), tasks.rows(task));
      int64_t count = 0;
      for (int64_t r = 0; r < block.size; ++r) {
        if (!block.finite[r]) continue;
        const int64_t near = rows.listed != nullptr ? args.indices[block.rows[r]] : -1;
        if (near >= 0) pairs.add(block.row(r), near, &block.found[r]);
        z[count] = block.row(r);
        found[count++] = &block.found[r];
      }
      pairs.flush();
      if (tasks.part(task) == 0) {
        num_finite += count;
        num_not_finite += block.size - count;
      }
      search.run(z.data(), count, tasks.first_unit(task) * kDirectUnit,
                 std::min(tasks.last_unit(task) * kDirectUnit, args.num_codes), found.data());
      if (cut) {
        store_partial(block, tasks, task, &partial);
      } else {
        block.finish();
      }
    }
    // Where the codebook is cut, a row may be scanned in one part and not in another.
    const int64_t num_scanned = search.rows_scanned() / tasks.num_parts;
    counters.rows_scan += num_scanned;
    counters.rows_direct += num_finite - num_scanned;
    counters.rows_not_finite += num_not_finite;
  });

  if (!cut) return;
  Block block(args, tasks);
  for (int64_t task = 0; task < tasks.count(); task += tasks.num_parts) {
    const int64_t first = tasks.first_row(task);
    block.load(rows, first, tasks.rows(task));
    merge_parts(partial.data() + first * tasks.num_parts, tasks.num_parts, &block);
    block.finish();
  }
}

}  // namespace vqgan_fast
