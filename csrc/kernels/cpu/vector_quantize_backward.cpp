#include <algorithm>
#include <memory>
#include <vector>

#include "kernels/cpu/aligned_memory.h"
#include "kernels/cpu/code_sums.h"
#include "kernels/cpu/codebook_stats.h"
#include "kernels/cpu/float_mode.h"
#include "kernels/cpu/row_block.h"
#include "kernels/cpu/row_loops.h"
#include "kernels/cpu/row_tiles.h"
#include "kernels/cpu/transpose.h"
#include "kernels/cpu/vector_quantize.h"

namespace vqgan_fast {
namespace {

constexpr int64_t kBlockRows = 64;
constexpr int64_t kRowTileColumns = 512;
// Codes that take no more than this come from the nearer caches as fast as they can be asked for.
constexpr int64_t kNearBytes = 512 << 10;
// Rows and columns that are worth a call each.
constexpr int64_t kLongLine = 64;
// Of columns in place, a tile is long, so that memory is asked for in its order: these rows, and a
// cache line of each code.
constexpr int64_t kLongTileRows = 1024;
constexpr int64_t kLongTileColumns = 16;
// Between the columns of codes, lest they all fall on the same places of the caches.
constexpr int64_t kLongTilePadding = 16;
constexpr int kFloat64 = static_cast<int>(DType::kFloat64);

// The lines of a tile, its rows or its columns: line i begins at first + i * step bytes.
struct Lines {
  char* first;
  int64_t step;
};

// Goes through z in the direction in which its gradient is contiguous: each line of memory is read
// and written once. What does not lie like that comes by way of tiles that stay in L1.
class GradZ {
 public:
  GradZ(const VectorQuantizeBackwardArgs& args, const Rows& grad_z_q, double scale,
        const Rows& grad_z, const RowLoops& loops)
      : args_(args),
        grad_z_q_(grad_z_q),
        scale_(scale),
        grad_z_(grad_z),
        loops_(loops),
        by_columns_(grad_z.element_stride != 1 && grad_z.inner_stride == 1),
        in_place_(by_columns_ || grad_z.element_stride == 1),
        constant_(grad_z_q.data == nullptr ||
                  (grad_z_q.element_stride == 0 && grad_z_q.inner_stride == 0 &&
                   grad_z_q.outer_stride == 0)),
        far_codes_(args.codebook.element_stride == 1 &&
                   args.num_codes * args.dim * bytes_of(args.codebook.dtype) > kNearBytes),
        buffers_(std::make_unique<Buffers>()) {
    if (constant_) fill_constant();
  }

  void run(int64_t begin, int64_t end) {
    const bool all_lines = in_place_ && is_line(args_.z) && (constant_ || is_line(grad_z_q_));
    const bool whole_rows = !by_columns_ && all_lines;
    if (all_lines && args_.codebook.element_stride == 1) {
      if (!by_columns_ && args_.dim >= kLongLine) return run_rows(begin, end);
      if (by_columns_ && run_length(begin) >= kLongLine) return run_columns(begin, end);
    }
    for_each_tile(
        begin, end, args_.dim, whole_rows ? kRowTileColumns : kFarTileColumns,
        [&](int64_t row) { return run_length(row); }, [&](const Tile& tile) { compute(tile); });
  }

 private:
  struct Buffers {
    TileBuffer z, codes, grad_z_q, grad_z;
  };

  // Rows from `row` on that lie in the same run of everything.
  int64_t run_length(int64_t row) const {
    const int64_t length = std::min(rows_in_run(args_.z, row), rows_in_run(grad_z_, row));
    return constant_ ? length : std::min(length, rows_in_run(grad_z_q_, row));
  }

  // Rows, of codes as well, that are lines of memory.
  void run_rows(int64_t begin, int64_t end) const {
    constexpr int64_t kLeastRowsAhead = 2, kCodeBytesAhead = 4096;
    const int64_t code_bytes = args_.dim * bytes_of(args_.codebook.dtype);
    const int64_t rows_ahead = std::max(kLeastRowsAhead, kCodeBytesAhead / code_bytes);
    const int64_t behind = elements_behind(args_.dim);
    for (int64_t row = begin; row < end; ++row) {
      const char* later = code_of(std::min(row + rows_ahead, end - 1));
      for (int64_t b = 0; b < code_bytes; b += 64) __builtin_prefetch(later + b);
      const char* codes = code_of(row);
      for (int64_t d = 0; d < args_.dim; d += kTileElements) {
        const Tile tile{row, 1, d, std::min(kTileElements, args_.dim - d)};
        line(tile_at(args_.z, tile), codes + d * bytes_of(args_.codebook.dtype), grad_z_q_of(tile),
             tile.num_columns, behind, tile_at(grad_z_, tile));
      }
    }
  }

  // Columns that are lines of memory.
  void run_columns(int64_t begin, int64_t end) const {
    const int64_t bytes = bytes_of(args_.codebook.dtype);
    const int64_t most_rows = std::min(kLongTileRows, end - begin);
    const int64_t stride = most_rows + kLongTilePadding;
    const auto codes = allocate_array<char>(kLongTileColumns * stride * bytes);
    const auto code_of_row = std::make_unique<const void*[]>(most_rows);
    for (int64_t row = begin; row < end;) {
      const int64_t num_rows = std::min({most_rows, end - row, run_length(row)});
      for (int64_t r = 0; r < num_rows; ++r) code_of_row[r] = code_of(row + r);
      const int64_t behind = elements_behind(num_rows);
      for (int64_t first = 0; first < args_.dim; first += kLongTileColumns) {
        const int64_t num_columns = std::min(kLongTileColumns, args_.dim - first);
        for (int64_t r = 0; r < num_rows; r += kTileRows) {
          for (int64_t i = r + kTileRows; i < std::min(r + 2 * kTileRows, num_rows); ++i) {
            __builtin_prefetch(code_of_row[i]);
          }
          transpose(bytes, &code_of_row[r], std::min(kTileRows, num_rows - r), num_columns,
                    &codes[r * bytes], stride);
        }
        for (int64_t r = 0; r < num_rows; ++r) {
          code_of_row[r] = static_cast<const char*>(code_of_row[r]) + num_columns * bytes;
        }
        for (int64_t c = 0; c < num_columns; ++c) {
          const Tile column{row, num_rows, first + c, 1};
          line(tile_at(args_.z, column), &codes[c * stride * bytes], grad_z_q_of(column), num_rows,
               behind, tile_at(grad_z_, column));
        }
      }
      row += num_rows;
    }
  }

  // How many elements of everything lie behind a line of this length and are wanted next: more
  // than a loop asks for, or none.
  int64_t elements_behind(int64_t length) const {
    const auto follow = [&](const Rows& rows) {
      return (by_columns_ ? rows.element_stride : rows.inner_stride) == length;
    };
    const bool all = follow(args_.z) && follow(grad_z_) && (constant_ || follow(grad_z_q_));
    return all ? RowLoops::kBytesAhead : 0;
  }

  const char* code_of(int64_t row) const {
    return element_at(args_.codebook, args_.codebook.offset(args_.indices[row]));
  }

  const char* grad_z_q_of(const Tile& tile) const {
    return constant_ ? buffers_->grad_z_q.bytes : tile_at(grad_z_q_, tile);
  }

  // Whether a line of the gradient of z is one of these rows as well.
  bool is_line(const Rows& rows) const {
    return by_columns_ ? rows.inner_stride == 1 : rows.element_stride == 1;
  }

  // -0 where there is no gradient: the only number that leaves every other as it is.
  void fill_constant() {
    double values[kTileRows] = {-0.0};
    if (grad_z_q_.data != nullptr) load_columns(grad_z_q_, 0, 0, 1, values);
    std::fill(values, values + kTileRows, values[0]);
    const DType dtype = grad_z_q_.data == nullptr ? grad_z_.dtype : grad_z_q_.dtype;
    grad_z_q_.dtype = dtype;
    for (int64_t i = 0; i < kTileElements; i += kTileRows) {
      loops_.store[static_cast<int>(dtype)](values, kTileRows,
                                            buffers_->grad_z_q.bytes + i * bytes_of(dtype));
    }
  }

  Lines packed(const Rows& rows, const Tile& tile, TileBuffer* buffer) const {
    const int64_t length = by_columns_ ? tile.num_rows : tile.num_columns;
    return {buffer->bytes, length * bytes_of(rows.dtype)};
  }

  Lines lines_in_place(const Rows& rows, const Tile& tile) const {
    const int64_t stride = by_columns_ ? rows.element_stride : rows.inner_stride;
    return {tile_at(rows, tile), stride * bytes_of(rows.dtype)};
  }

  Lines read(const Rows& rows, const Tile& tile, TileBuffer* buffer) const {
    if (is_line(rows)) return lines_in_place(rows, tile);
    if (by_columns_) {
      read_columns(rows, tile, buffer->bytes);
    } else {
      read_rows(rows, tile, buffer->bytes);
    }
    return packed(rows, tile, buffer);
  }

  void compute(const Tile& tile) {
    const Lines z = read(args_.z, tile, &buffers_->z);
    const Lines grad_z_q = constant_ ? packed(grad_z_q_, tile, &buffers_->grad_z_q)
                                     : read(grad_z_q_, tile, &buffers_->grad_z_q);
    const int64_t* indices = args_.indices + tile.first_row;
    const int64_t next = tile.first_row + tile.num_rows;
    if (far_codes_ && tile.num_columns == args_.dim) {
      ask_for_rows(args_.codebook, args_.indices + next, std::min(kTileRows, args_.num_rows - next),
                   args_.dim);
    }
    if (by_columns_) {
      gather_columns(args_.codebook, indices, tile, buffers_->codes.bytes);
    } else {
      gather_rows(args_.codebook, indices, tile, buffers_->codes.bytes);
    }
    const Lines codes = packed(args_.codebook, tile, &buffers_->codes);
    const Lines out =
        in_place_ ? lines_in_place(grad_z_, tile) : packed(grad_z_, tile, &buffers_->grad_z);

    int64_t num_lines = by_columns_ ? tile.num_columns : tile.num_rows;
    int64_t length = by_columns_ ? tile.num_rows : tile.num_columns;
    const int64_t packed_step = length * bytes_of(grad_z_.dtype);
    if (z.step == packed_step && out.step == packed_step &&
        grad_z_q.step == length * bytes_of(grad_z_q_.dtype)) {
      length *= num_lines;
      num_lines = 1;
    }
    const int64_t behind = num_lines == 1 ? RowLoops::kBytesAhead : 0;
    for (int64_t i = 0; i < num_lines; ++i) {
      line(z.first + i * z.step, codes.first + i * codes.step, grad_z_q.first + i * grad_z_q.step,
           length, behind, out.first + i * out.step);
    }
    if (!in_place_) write_rows(grad_z_, tile, buffers_->grad_z.bytes);
  }

  void line(const char* z, const char* e, const char* grad_z_q, int64_t n, int64_t behind,
            char* out) const {
    const int z_type = static_cast<int>(grad_z_.dtype);
    const int e_type = static_cast<int>(args_.codebook.dtype);
    const int grad_type = static_cast<int>(grad_z_q_.dtype);
    if (grad_type == z_type) {
      return loops_.grad_z[z_type][e_type](z, e, grad_z_q, scale_, n, behind, out);
    }
    // A gradient in a type of its own: no loop is written for it.
    constexpr int64_t kPart = 64;
    double parts[3][kPart];
    const auto at = [](const char* p, DType dtype, int64_t i) { return p + i * bytes_of(dtype); };
    for (int64_t i = 0; i < n; i += kPart) {
      const int64_t count = std::min(kPart, n - i);
      loops_.load[z_type](at(z, args_.z.dtype, i), count, parts[0]);
      loops_.load[e_type](at(e, args_.codebook.dtype, i), count, parts[1]);
      loops_.load[grad_type](at(grad_z_q, grad_z_q_.dtype, i), count, parts[2]);
      loops_.grad_z[kFloat64][kFloat64](parts[0], parts[1], parts[2], scale_, count, 0, parts[0]);
      loops_.store[z_type](parts[0], count, out + i * bytes_of(grad_z_.dtype));
    }
  }

  const VectorQuantizeBackwardArgs& args_;
  Rows grad_z_q_;
  double scale_;
  const Rows& grad_z_;
  const RowLoops& loops_;
  bool by_columns_;
  bool in_place_;
  bool constant_;
  // Those of the next tile are on their way while this one is computed.
  bool far_codes_;
  std::unique_ptr<Buffers> buffers_;
};

}  // namespace

void vector_quantize_grad_z(const VectorQuantizeBackwardArgs& args, const Rows& grad_z_q,
                            double scale, const Rows& grad_z, const Parallel& parallel) {
  const RowLoops& loops = row_loops(simd_level());
  const int64_t num_blocks = (args.num_rows + kBlockRows - 1) / kBlockRows;
  const int64_t grain = std::max<int64_t>(1, kLeastElements / (kBlockRows * args.dim));
  parallel.run(0, num_blocks, grain, [&](int64_t begin, int64_t end) {
    const DefaultFloatMode float_mode;
    GradZ(args, grad_z_q, scale, grad_z, loops)
        .run(begin * kBlockRows, std::min(end * kBlockRows, args.num_rows));
  });
}

void vector_quantize_grad_codebook(const VectorQuantizeBackwardArgs& args, double scale,
                                   const Rows& grad_codebook, const Parallel& parallel) {
  const std::unique_ptr<int64_t[]> counts(new int64_t[args.num_codes]);
  const CodeGroups groups =
      group_codes(args.indices, args.num_rows, args.num_codes, counts.get(), parallel);
  const Rows& codebook = args.codebook;
  const auto store = code_sums(simd_level()).store_gradients[static_cast<int>(codebook.dtype)];
  const bool in_place = codebook.element_stride == 1 && grad_codebook.element_stride == 1;
  SumSink sink;
  sink.take = [&](int64_t first_group, int64_t last_group, int64_t first_column,
                  int64_t num_columns, const double* sums) {
    const int64_t* codes = groups.codes.get();
    const int64_t* first = groups.first.get();
    if (in_place) {
      const int64_t column = first_column * bytes_of(codebook.dtype);
      return store(sums, codes + first_group, first + first_group, last_group - first_group,
                   num_columns, scale, static_cast<const char*>(codebook.data) + column,
                   codebook.inner_stride, tile_at(grad_codebook, {0, 1, first_column, 1}),
                   grad_codebook.inner_stride);
    }
    std::vector<double> out(num_columns);
    for (int64_t g = first_group; g < last_group; ++g, sums += num_columns) {
      const double count = static_cast<double>(groups.count(g));
      load_columns(codebook, codes[g], first_column, num_columns, out.data());
      for (int64_t d = 0; d < num_columns; ++d) out[d] = scale * (count * out[d] - sums[d]);
      store_columns(grad_codebook, codes[g], first_column, num_columns, out.data());
    }
  };
  // A code without rows has no gradient, not even one that is NaN.
  sink.clear = [&](int64_t first_code, int64_t last_code) {
    clear_rows(grad_codebook, first_code, last_code, args.dim);
  };
  sum_rows_by_code(groups, args.z, args.dim, parallel, sink);
}

}  // namespace vqgan_fast
