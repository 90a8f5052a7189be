#pragma once

#include "kernels.h"

namespace hybridgen {

// out (M, O) = x (M, K) weight^T (O, K) + bias (O). x is dense float32, the others are of one element type; the
// distance between weight rows is in elements.
struct LinearRows {
  void* out;
  const float* x;
  const void *weight, *bias;  // bias may be null
  int64_t rows, inputs, outputs, weight_stride;
  Element element;
};

// Fills `wide`, room for rows * inputs numbers, from rows of x `stride` elements apart, and computes all outputs on all
// threads; args.x is set by it.
void apply_linear_rows(LinearRows args, const void* x, int64_t stride, float* wide);

}  // namespace hybridgen

// Computes the outputs first_output ... last_output - 1 of all rows.
HYBRIDGEN_KERNEL(linear_rows, const hybridgen::LinearRows& args, int64_t first_output, int64_t last_output)

// Writes rows of any element type, `stride` elements apart, as dense float32.
HYBRIDGEN_KERNEL(
    widen_rows, float* to, const void* from, hybridgen::Element element, int64_t stride, int64_t rows, int64_t columns)
