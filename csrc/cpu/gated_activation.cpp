#include "gated_activation.h"

#include "tensors.h"

namespace hybridgen {

namespace {

Tensor gated_activation(const Tensor& value, const Tensor& gate, int64_t activation) {
  const Rows values = as_rows(value), gates = as_rows(gate);
  Tensor out = torch::stable::empty_like(value);
  const Rows outs = as_rows(out);
  const GateForward args{
      outs.tensor.mutable_data_ptr(), values.tensor.const_data_ptr(), gates.tensor.const_data_ptr(),
      outs.stride, values.stride, gates.stride, outs.columns,
      element_of("gated_activation", "value", value), static_cast<int32_t>(activation)};
  torch::stable::parallel_for(0, outs.count, grain(outs.columns), [&](int64_t first, int64_t last) {
    best::gated_activation_forward(args, first, last);
  });
  return out;
}

}  // namespace

}  // namespace hybridgen

STABLE_TORCH_LIBRARY_IMPL(hybridgen_native, CPU, m) {
  m.impl("gated_activation", TORCH_BOX(&hybridgen::gated_activation));
}
