// Checks of operator arguments. Each message names the operator, the argument, what was expected and what was given.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

namespace hybridgen {

using torch::stable::Tensor;
using torch::headeronly::ScalarType;

inline std::string shape_text(std::initializer_list<int64_t> shape) {
  std::string text = "(";
  for (int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + ")";
}

inline std::string shape_text(const Tensor& tensor) {
  std::string text = "(";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i ? ", " : "") + std::to_string(tensor.size(i));
  return text + ")";
}

inline void check_shape(const char* op, const char* name, const Tensor& tensor, std::initializer_list<int64_t> shape) {
  bool same = tensor.dim() == static_cast<int64_t>(shape.size());
  int64_t i = 0;
  for (int64_t size : shape) same = same && tensor.size(i++) == size;
  STD_TORCH_CHECK(same, op, ": ", name, " must have shape ", shape_text(shape), ", but has ", shape_text(tensor));
}

inline void check_shape(
    const char* op, const char* name, const std::optional<Tensor>& tensor, std::initializer_list<int64_t> shape) {
  if (tensor) check_shape(op, name, *tensor, shape);
}

inline const char* dtype_text(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Half: return "float16";
    case ScalarType::Bool: return "bool";
    default: return "a dtype that hybridgen's kernels do not know";
  }
}

inline void check_dtype(const char* op, const char* name, const Tensor& tensor, ScalarType type) {
  STD_TORCH_CHECK(
      tensor.scalar_type() == type, op, ": ", name, " must be ", dtype_text(type), ", but is ",
      dtype_text(tensor.scalar_type()));
}

inline void check_dtype(const char* op, const char* name, const std::optional<Tensor>& tensor, ScalarType type) {
  if (tensor) check_dtype(op, name, *tensor, type);
}

}  // namespace hybridgen
