#pragma once

#include "kernels.h"

namespace hybridgen {

// A tensor as rows of equal length, `stride` elements apart.
struct GateRows {
  void* data;
  int64_t stride;
};

// value * act(gate), over rows of `columns` elements. With `period` > 0 the value is (value + other) * scale, where
// `other` runs backwards within each group of `period` rows: row t of a group is added to its row period - 1 - t.
struct GateForward {
  GateRows out, value, other, gate;
  int64_t columns, period;
  double scale;
  Element element;
  int32_t activation;
  bool streams;  // stores go around the cache
};

struct GateBackward {
  GateRows d_value, d_other, d_gate, grad, value, other, gate;
  int64_t columns, period;
  double scale;
  Element element;
  int32_t activation;
  bool streams;
};

}  // namespace hybridgen

// The range counts elements over all rows, so that also a single long row is shared among threads.
HYBRIDGEN_KERNEL(gated_activation_forward, const hybridgen::GateForward& args, int64_t begin, int64_t end)
HYBRIDGEN_KERNEL(gated_activation_backward, const hybridgen::GateBackward& args, int64_t begin, int64_t end)
