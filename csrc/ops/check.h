// How ops refuse an argument.
#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include <cctype>
#include <sstream>
#include <stdexcept>
#include <string>

namespace vqgan_fast::ops {

// What dtypes are called in Python.
inline std::string text_of(torch::headeronly::ScalarType type) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Byte:
      return "torch.uint8";
    case ScalarType::Char:
      return "torch.int8";
    case ScalarType::Short:
      return "torch.int16";
    case ScalarType::Int:
      return "torch.int32";
    case ScalarType::Long:
      return "torch.int64";
    case ScalarType::Half:
      return "torch.float16";
    case ScalarType::Float:
      return "torch.float32";
    case ScalarType::Double:
      return "torch.float64";
    case ScalarType::ComplexHalf:
      return "torch.complex32";
    case ScalarType::ComplexFloat:
      return "torch.complex64";
    case ScalarType::ComplexDouble:
      return "torch.complex128";
    default:  // the same, but for capitals
      break;
  }
  std::string name = torch::headeronly::toString(type);
  for (char& letter : name) letter = static_cast<char>(std::tolower(letter));
  return "torch." + name;
}

template <class Part>
const Part& text_of(const Part& part) {
  return part;
}

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << text_of(parts));
  throw std::runtime_error(text.str());
}

}  // namespace vqgan_fast::ops

// Raises a RuntimeError that says the parts, which are only put together then. STD_TORCH_CHECK
// would say function, file and line first, where users look for the argument's name.
#define VQGAN_FAST_CHECK(condition, ...)                      \
  do {                                                        \
    if (!(condition)) ::vqgan_fast::ops::refuse(__VA_ARGS__); \
  } while (false)
