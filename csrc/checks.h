// Checks of operator arguments. Each message names the operator, the argument, what was expected and what was given.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

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

// Of hybridgen.ops.activations.ACTIVATIONS.
constexpr int64_t kActivations = 11;

inline void check_activation(const char* op, int64_t activation, const char* name = "activation") {
  STD_TORCH_CHECK(
      activation >= 0 && activation < kActivations, op, ": ", name, " must be a number from 0 to ", kActivations - 1,
      ", but is ", activation);
}

// (stride, size) of the dimensions that have more than one element, the widest stride first.
inline std::vector<std::pair<int64_t, int64_t>> steps_of(const Tensor& tensor) {
  std::vector<std::pair<int64_t, int64_t>> steps;
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    if (tensor.size(i) > 1) steps.emplace_back(tensor.stride(i), tensor.size(i));
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

// A tensor that is written needs a place of its own for each element.
inline void check_writable(const char* op, const char* name, const Tensor& tensor) {
  if (tensor.is_contiguous() || tensor.numel() == 0) return;
  const auto steps = steps_of(tensor);
  int64_t reach = 0;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    STD_TORCH_CHECK(
        step->first > reach, op, ": ", name, " is written, but several of its elements share memory; clone it first");
    reach += step->first * (step->second - 1);
  }
}

}  // namespace hybridgen
