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
  throw py::value_error(std::string(name) + " must be float16, float32 or float64, got " +
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

// The rows of an array of at least two axes; nothing where they cannot be read in place.
std::optional<Rows> rows_in_place(const py::array& array, DType dtype) {
  if (!has_element_strides(array)) return std::nullopt;
  const std::vector<int64_t> sizes(array.shape(), array.shape() + array.ndim());
  std::vector<int64_t> strides(array.strides(), array.strides() + array.ndim());
  for (int64_t& stride : strides) stride /= array.itemsize();
  return rows_of_array(array.data(), dtype, array.ndim(), sizes.data(), strides.data());
}

// A copy, kept in `array`, where the strides need one.
Rows rows_of(py::array* array, DType dtype) {
  if (const auto rows = rows_in_place(*array, dtype)) return *rows;
  *array = array->attr("copy")("C");
  return *rows_in_place(*array, dtype);
}

}  // namespace

py::tuple nearest_code_numpy(const py::array& z_given, const py::array& codebook_given, bool exact,
                             bool return_distance, int64_t num_threads) {
  py::array z = z_given;
  py::array codebook = codebook_given;
  const DType z_dtype = dtype_of(z, "z");
  const DType codebook_dtype = dtype_of(codebook, "codebook");
  if (z.ndim() < 2 || z.shape(z.ndim() - 1) == 0) {
    throw py::value_error("z must be (..., N, D) with D >= 1, got " + shape_text(z));
  }
  const int64_t dim = z.shape(z.ndim() - 1);
  if (codebook.ndim() != 2 || codebook.shape(0) == 0 || codebook.shape(1) != dim) {
    throw py::value_error("codebook must be (K, D) with K >= 1 and D = " + std::to_string(dim) +
                          ", got " + shape_text(codebook));
  }
  if (num_threads < 1) {
    throw py::value_error("num_threads must be at least 1, got " + std::to_string(num_threads));
  }

  NearestCodeArgs args;
  args.z = rows_of(&z, z_dtype);
  args.codebook = rows_of(&codebook, codebook_dtype);
  args.num_rows = z.size() / dim;
  args.num_codes = codebook.shape(0);
  args.dim = dim;
  args.exact = exact;
  const std::vector<py::ssize_t> shape(z.shape(), z.shape() + z.ndim() - 1);
  py::array_t<int64_t> indices(shape);
  args.indices = indices.mutable_data();
  py::object distances = py::none();
  if (return_distance) {
    const bool wide = z_dtype == DType::kFloat64 || codebook_dtype == DType::kFloat64;
    py::array values(wide ? py::dtype::of<double>() : py::dtype::of<float>(), shape);
    args.distance_dtype = wide ? DType::kFloat64 : DType::kFloat32;
    args.distances = values.mutable_data();
    distances = values;
  }
  if (args.num_rows > 0) {
    py::gil_scoped_release release;
    nearest_code(args, std_threads(num_threads));
  }
  return py::make_tuple(indices, distances);
}

}  // namespace vqgan_fast
