// What the gated activations check on every device, and their outputs.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <utility>
#include <vector>

#include "checks.h"

namespace hybridgen {

constexpr int64_t kActivations = 11;

inline Tensor dense_like(const Tensor& tensor) {
  std::vector<int64_t> shape;
  for (int64_t i = 0; i < tensor.dim(); ++i) shape.push_back(tensor.size(i));
  return torch::stable::new_empty(tensor, shape);
}

// All tensors have the shape and the dtype of the first.
inline void check_gate(
    const char* op, const Tensor& first, std::initializer_list<std::pair<const char*, const Tensor&>> others,
    int64_t activation) {
  STD_TORCH_CHECK(
      activation >= 0 && activation < kActivations, op, ": activation must be a number from 0 to ", kActivations - 1,
      ", but is ", activation);
  for (const auto& [name, tensor] : others) {
    bool same = tensor.dim() == first.dim();
    for (int64_t i = 0; same && i < first.dim(); ++i) same = tensor.size(i) == first.size(i);
    STD_TORCH_CHECK(same, op, ": ", name, " must have shape ", shape_text(first), ", but has ", shape_text(tensor));
    check_dtype(op, name, tensor, first.scalar_type());
    STD_TORCH_CHECK(tensor.device() == first.device(), op, ": ", name, " must lie on the device of the others");
  }
}

inline void check_two_way_gate(
    const char* op, const Tensor& first, std::initializer_list<std::pair<const char*, const Tensor&>> others,
    int64_t activation) {
  STD_TORCH_CHECK(first.dim() == 3, op, ": y_forward must have shape (B, T, D), but has ", shape_text(first));
  check_gate(op, first, others, activation);
}

}  // namespace hybridgen
