#pragma once

#include "kernels.h"

namespace hybridgen {

// A tensor as rows `stride` elements apart, in a dtype of its own; null where the tensor is absent.
struct NormRows {
  void* data = nullptr;
  int64_t stride = 0;
  Element element = Element::kFloat32;
};

// normed = norm(branch + residual) * (weight + weight_offset) + bias; weight and bias are single rows.
struct AddNorm {
  NormRows branch, residual, weight, bias;
  int64_t columns;
  double weight_offset, eps;
  bool is_rms;
};

struct AddNormForward {
  AddNorm norm;
  NormRows normed, total;
};

// Rows are taken in blocks. The gradients of weight and bias are summed per block, in the dtype of the arithmetic, into
// a row of d_weight and d_bias each, and added up afterwards: the result does not depend on the number of threads.
struct AddNormBackward {
  AddNorm norm;
  NormRows grad, grad_total, d_branch, d_residual;
  void *d_weight, *d_bias;
  int64_t rows, rows_per_block;
};

struct AddNormSum {
  NormRows sum;
  const void* parts;
  int64_t blocks, columns;
};

// Rows of scratch memory, in the dtype of the arithmetic, that a kernel needs.
constexpr int64_t kAddNormForwardScratch = 3, kAddNormBackwardScratch = 4;

}  // namespace hybridgen

// Over rows.
HYBRIDGEN_KERNEL(add_norm_forward, const hybridgen::AddNormForward& args, void* scratch, int64_t begin, int64_t end)
// Over blocks of rows.
HYBRIDGEN_KERNEL(add_norm_backward, const hybridgen::AddNormBackward& args, void* scratch, int64_t begin, int64_t end)
// The sum of the blocks' rows.
HYBRIDGEN_KERNEL(add_norm_sum, const hybridgen::AddNormSum& args)
