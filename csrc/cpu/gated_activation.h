#pragma once

#include "kernels.h"

namespace hybridgen {

// Rows of `columns` elements, each tensor with its own distance between rows (in elements).
struct GateForward {
  void* out;
  const void* value;
  const void* gate;
  int64_t out_stride, value_stride, gate_stride, columns;
  Element element;
  int32_t activation;
};

}  // namespace hybridgen

HYBRIDGEN_KERNEL(gated_activation_forward, const hybridgen::GateForward& args, int64_t first_row, int64_t last_row)
