#pragma once

#include "kernels.h"

namespace hybridgen {

// rms(y * act(z)) * weight, or with `norm_first` rms(y) * weight * act(z), the norm taken over each of `groups` equal
// parts of a row. All tensors are of one element type; the distances between rows are in elements.
struct GatedNorm {
  void* out;
  const void *y, *z, *weight;
  int64_t out_row, y_row, z_row, columns, groups;
  double eps;
  Element element;
  int32_t activation;
  bool norm_first;
};

}  // namespace hybridgen

HYBRIDGEN_KERNEL(gated_norm, const hybridgen::GatedNorm& args, int64_t first_row, int64_t last_row)
