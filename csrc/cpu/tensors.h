// What the CPU operators do with tensors around their kernels.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <optional>
#include <vector>

#include "../checks.h"
#include "kernels.h"

namespace hybridgen {

// A device check is not needed on the CPU: the dispatcher comes here only if all tensors lie there, and goes to the
// fakes of hybridgen/ops, which check it, if any is a meta tensor.

inline Element element_of(const char* op, const char* name, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Element::kFloat32;
    case ScalarType::Double: return Element::kFloat64;
    case ScalarType::BFloat16: return Element::kBFloat16;
    case ScalarType::Half: return Element::kFloat16;
    default: break;
  }
  STD_TORCH_CHECK(false, op, ": ", name, " must be float32, float64, bfloat16 or float16, but is ",
                  dtype_text(tensor.scalar_type()));
}

// The dtype of arithmetic and states: float64 for float64 tensors, else float32.
inline ScalarType compute_type(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// The tensor itself if its last dimension is dense, else a dense copy.
inline Tensor dense_rows(const Tensor& tensor) {
  const bool dense = tensor.dim() == 0 || tensor.size(tensor.dim() - 1) <= 1 || tensor.stride(tensor.dim() - 1) == 1;
  return dense ? tensor : torch::stable::contiguous(tensor);
}

inline Tensor empty_like(const Tensor& tensor, std::vector<int64_t> shape) {
  return torch::stable::new_empty(tensor, shape);
}

inline Tensor empty_like(const Tensor& tensor, std::vector<int64_t> shape, ScalarType type) {
  return torch::stable::new_empty(tensor, shape, type);
}

// A tensor (..., D) as rows of D elements at a fixed distance: the tensor itself where its strides allow that (the
// halves of a packed projection do), else a dense copy.
struct Rows {
  Tensor tensor;
  int64_t count, columns, stride;
};

inline Rows as_rows(const Tensor& tensor) {
  const int64_t last = tensor.dim() - 1, columns = tensor.size(last);
  int64_t count = 1, stride = last > 0 ? tensor.stride(last - 1) : columns;
  bool regular = columns <= 1 || tensor.stride(last) == 1;
  for (int64_t i = last - 1; i >= 0; --i) {
    if (count == 1) stride = tensor.stride(i);
    regular = regular && (tensor.size(i) == 1 || count == 1 || tensor.stride(i) == count * stride);
    count *= tensor.size(i);
  }
  if (regular) return {tensor, count, columns, stride};
  return {torch::stable::contiguous(tensor), count, columns, columns};
}

// Rows per thread, so that a thread gets at least some thousands of elements.
inline int64_t grain(int64_t elements_per_row) { return elements_per_row >= 16384 ? 1 : 16384 / (elements_per_row + 1) + 1; }

}  // namespace hybridgen
