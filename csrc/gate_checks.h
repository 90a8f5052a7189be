// What the gated activations check on every device, and their outputs.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdlib>

#include "checks.h"

namespace hybridgen {

inline Tensor dense_like(const Tensor& tensor) {
  std::vector<int64_t> shape;
  for (int64_t i = 0; i < tensor.dim(); ++i) shape.push_back(tensor.size(i));
  return torch::stable::new_empty(tensor, shape);
}

// All tensors have the shape and the dtype of the first.
inline void check_gate(
    const char* op, const Tensor& first, std::initializer_list<std::pair<const char*, const Tensor&>> others,
    int64_t activation) {
  check_activation(op, activation);
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

// Whether two elements of tensors with these steps, none of which overlaps itself, lie `distance` elements apart.
inline bool meet(const std::pair<int64_t, int64_t>* step, const std::pair<int64_t, int64_t>* end, int64_t distance) {
  if (step == end) return distance == 0;
  // What the narrower dimensions reach is less than this one's stride.
  const int64_t nearest = distance / step->first;
  for (int64_t count = nearest - 1; count <= nearest + 1; ++count) {
    if (std::abs(count) < step->second && meet(step + 1, end, distance - count * step->first)) return true;
  }
  return false;
}

// `out` may be one of the inputs, but must not lie across one: elements would be read after they were written.
inline void check_out(
    const char* op, const Tensor& out, std::initializer_list<std::pair<const char*, const Tensor&>> inputs) {
  check_writable(op, "out", out);
  if (out.numel() == 0) return;
  const auto steps = steps_of(out);
  const int64_t bytes = out.element_size();
  const auto last_byte = [bytes](const std::vector<std::pair<int64_t, int64_t>>& dims) {
    int64_t last = bytes - 1;
    for (const auto& [stride, size] : dims) last += stride * (size - 1) * bytes;
    return last;
  };
  const char* const start = static_cast<const char*>(out.const_data_ptr());
  for (const auto& [name, input] : inputs) {
    const auto others = steps_of(input);
    const char* const other = static_cast<const char*>(input.const_data_ptr());
    if (other + last_byte(others) < start || start + last_byte(steps) < other) continue;
    const int64_t distance = other - start;
    bool apart = others == steps && distance % bytes == 0;
    for (int64_t i = 0; apart && i < out.dim(); ++i) apart = out.size(i) == 1 || out.stride(i) == input.stride(i);
    apart = apart && (distance == 0 || !meet(steps.data(), steps.data() + steps.size(), distance / bytes));
    STD_TORCH_CHECK(apart, op, ": out shares memory with ", name, " without being the same tensor");
  }
}

}  // namespace hybridgen
