// The extension module _native: what works on numpy arrays without torch, and what this binary is.
#include <pybind11/pybind11.h>

#include <sstream>
#include <string>

#include "build_config.h"
#include "kernels/cpu/nearest_code.h"
#include "kernels/cpu/simd_level.h"
#include "python/nearest_code.h"

namespace py = pybind11;
using namespace py::literals;

namespace vqgan_fast {
namespace {

py::list split(const std::string& text) {
  py::list parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ';');) parts.append(part);
  return parts;
}

py::dict build_info() {
  constexpr unsigned long long target = VQGAN_FAST_TORCH_TARGET_VERSION;
  py::dict info;
  info["version"] = VQGAN_FAST_VERSION;
  info["compiler"] = VQGAN_FAST_COMPILER;
  info["torch_target_version"] =
      std::to_string(target >> 56) + "." + std::to_string((target >> 48) & 0xff);
  info["simd_compiled"] = split(VQGAN_FAST_SIMD_COMPILED);
  info["cuda_version"] = VQGAN_FAST_CUDA_VERSION;
  info["cuda_archs"] = split(VQGAN_FAST_CUDA_ARCHS);
  return info;
}

py::dict cpu_features() {
  py::dict features;
  features["detected"] = simd_level_name(cpu_simd_level());
  features["selected"] = simd_level_name(simd_level());
  features["nearest_code"] = simd_level_name(simd_level());
  py::list levels;
  for (const SimdLevel level : cpu_simd_levels()) levels.append(simd_level_name(level));
  features["levels"] = levels;
  return features;
}

}  // namespace
}  // namespace vqgan_fast

PYBIND11_MODULE(_native, m) {
  m.doc() = "Compiled parts of vqgan_fast that need no torch.";
  m.def("build_info", &vqgan_fast::build_info,
        "How this binary was built: version, compiler, oldest torch, SIMD levels, CUDA.");
  m.def("cpu_features", &vqgan_fast::cpu_features,
        "SIMD levels: the highest that this CPU runs, the one selected (VQGAN_FAST_ISA forces it), "
        "the one that nearest_code runs at, and all that this CPU runs. RuntimeError if "
        "VQGAN_FAST_ISA cannot be had.");
  m.def("nearest_code", &vqgan_fast::nearest_code_numpy, "z"_a, "codebook"_a, "return_distance"_a,
        "num_threads"_a, "See vqgan_fast.numpy.nearest_code.");
}
