#include "python/nearest_code.h"

#include <optional>
#include <string>
#include <vector>

#include "kernels/cpu/nearest_code.h"
#include "kernels/cpu/rows.h"
#include "python/threads.h"

namespace py = pybind11;

namespace vqgan_fast {
namespace {

std::string shape_text(const py::array& array) {
  std::string text = "(";
  for (py::ssize_t i = 0; i < array.ndim(); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(array.shape(i));
  }
  return text + (array.ndim() == 1 ? ",)" : ")");
}

DType dtype_of(const py::array& array, const char* name) {
  const py::dtype dtype = array.dtype();
  if (dtype.kind() == 'f' && dtype.attr("isnative").cast<bool>()) {
    switch (dtype.itemsize()) {
      case 2:
        return DType::kFloat16;
      case 4:
        return DType::kFloat32;
      case 8:
        return DType::kFloat64;
    }
  }
  throw py::value_error(std::string(name) +
                        " must be float16, float32 or float64 in native byte order, got " +
                        py::str(dtype).cast<std::string>());
}

// Whether strides can be counted in elements; fields of a structured array may not be.
bool has_element_strides(const py::array& array) {
  if (!array.attr("flags").attr("aligned").cast<bool>()) return false;
  for (py::ssize_t i = 0; i < array.ndim(); ++i) {
    if (array.strides(i) % array.itemsize() != 0) return false;
  }
  return true;
}

// An array as the kernel reads it: a copy where strides do not count elements.
class Matrices {
 public:
  Matrices(const py::array& array, DType dtype) : array_(array), dtype_(dtype) {
    if (!has_element_strides(array_)) array_ = copy();
    read();
  }

  // All axes but the last as one axis of rows; another copy if their strides allow no such view.
  Rows rows() {
    if (const auto found = try_rows()) return *found;
    array_ = copy();
    read();
    return *try_rows();
  }

  // The last two axes of the h-th entry of those before. Needs no GIL.
  Rows head(int64_t h) const {
    const int64_t axes = sizes_.size();
    int64_t offset = 0;
    for (int64_t i = axes - 3; i >= 0; --i) {
      offset += h % sizes_[i] * strides_[i];
      h /= sizes_[i];
    }
    Rows rows;
    rows.data = data_ + offset * itemsize_;
    rows.dtype = dtype_;
    rows.inner_rows = sizes_[axes - 2];
    rows.inner_stride = strides_[axes - 2];
    rows.element_stride = strides_[axes - 1];
    return rows;
  }

 private:
  py::array copy() const { return array_.attr("copy")("C"); }

  void read() {
    data_ = static_cast<const char*>(array_.data());
    itemsize_ = array_.itemsize();
    sizes_.assign(array_.shape(), array_.shape() + array_.ndim());
    strides_.assign(array_.strides(), array_.strides() + array_.ndim());
    for (int64_t& stride : strides_) stride /= itemsize_;
  }

  std::optional<Rows> try_rows() const {
    return rows_of_array(data_, dtype_, sizes_.size(), sizes_.data(), strides_.data());
  }

  py::array array_;
  DType dtype_;
  const char* data_;
  int64_t itemsize_;
  std::vector<int64_t> sizes_;
  std::vector<int64_t> strides_;  // in elements
};

void check_shapes(const py::array& z, const py::array& codebook) {
  const int64_t axes = z.ndim();
  if (axes < 2 || z.shape(axes - 1) == 0) {
    throw py::value_error("z must be (..., N, D) with D >= 1, got " + shape_text(z));
  }
  const int64_t codebook_axes = codebook.ndim();
  bool same_heads = codebook_axes == 2 || codebook_axes == axes;
  for (int64_t i = 0; same_heads && i < codebook_axes - 2; ++i) {
    same_heads = codebook.shape(i) == z.shape(i);
  }
  if (!same_heads || codebook.shape(codebook_axes - 2) == 0 ||
      codebook.shape(codebook_axes - 1) != z.shape(axes - 1)) {
    throw py::value_error("codebook must be (K, D) or (..., K, D) with the leading axes of z " +
                          shape_text(z) + ", K >= 1 and D = " + std::to_string(z.shape(axes - 1)) +
                          ", got " + shape_text(codebook));
  }
}

}  // namespace

py::tuple nearest_code_numpy(const py::array& z, const py::array& codebook, bool return_distance,
                             int64_t num_threads) {
  const DType z_dtype = dtype_of(z, "z");
  const DType codebook_dtype = dtype_of(codebook, "codebook");
  check_shapes(z, codebook);
  if (num_threads < 1) {
    throw py::value_error("num_threads must be at least 1, got " + std::to_string(num_threads));
  }

  const std::vector<py::ssize_t> shape(z.shape(), z.shape() + z.ndim() - 1);
  py::array_t<int64_t> indices(shape);
  const bool wide = z_dtype == DType::kFloat64 || codebook_dtype == DType::kFloat64;
  py::object distances = py::none();
  NearestCodeArgs args;
  args.dim = z.shape(z.ndim() - 1);
  args.num_codes = codebook.shape(codebook.ndim() - 2);
  args.indices = indices.mutable_data();
  if (return_distance) {
    py::array values(wide ? py::dtype::of<double>() : py::dtype::of<float>(), shape);
    args.distance_dtype = wide ? DType::kFloat64 : DType::kFloat32;
    args.distances = values.mutable_data();
    distances = values;
  }
  if (indices.size() == 0) return py::make_tuple(indices, distances);

  Matrices latents(z, z_dtype), codes(codebook, codebook_dtype);
  const bool batched = codebook.ndim() > 2;
  args.num_rows = batched ? z.shape(z.ndim() - 2) : indices.size();
  if (!batched) {
    args.z = latents.rows();
    args.codebook = codes.rows();
  }
  const int64_t num_heads = indices.size() / args.num_rows;
  {
    py::gil_scoped_release release;
    for (int64_t h = 0; h < num_heads; ++h) {
      if (batched) {
        args.z = latents.head(h);
        args.codebook = codes.head(h);
      }
      nearest_code(args, std_threads(num_threads));
      args.indices += args.num_rows;
      if (return_distance) {
        args.distances = static_cast<char*>(args.distances) + args.num_rows * (wide ? 8 : 4);
      }
    }
  }
  return py::make_tuple(indices, distances);
}

}  // namespace vqgan_fast
