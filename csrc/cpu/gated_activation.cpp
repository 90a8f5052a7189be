#include "gated_activation.h"

#include <unistd.h>

#include <cstdlib>

#include "../gate_checks.h"
#include "tensors.h"

namespace hybridgen {

namespace {

constexpr int64_t kBlock = 4096;       // elements; a thread's share is a multiple, so that it starts aligned
constexpr int64_t kBlocksPerThread = 8;

// Beyond this size of an output the cache holds nothing of it when its reader comes, so it is stored around the cache.
// The environment variable HYBRIDGEN_STREAM_BYTES stands in for the size of the cache, for tests.
int64_t cache_bytes() {
  static const int64_t bytes = [] {
    if (const char* given = std::getenv("HYBRIDGEN_STREAM_BYTES")) return static_cast<int64_t>(std::atoll(given));
#if defined(_SC_LEVEL3_CACHE_SIZE)
    const long size = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (size > 0) return static_cast<int64_t>(size);
#endif
    return int64_t{32} << 20;
  }();
  return bytes;
}

GateRows rows_for(const Rows& rows) { return {const_cast<void*>(rows.tensor.const_data_ptr()), rows.stride}; }

Rows rows_of(const Tensor& tensor) { return tensor.dim() == 0 ? Rows{tensor, 1, 1, 1} : as_rows(tensor); }

// The length of a row: that of the tensors' last dimension, or everything where all tensors are dense.
int64_t row_length(std::initializer_list<const Rows*> all) {
  const Rows& first = **all.begin();
  for (const Rows* rows : all) {
    if (rows->count > 1 && rows->stride != rows->columns) return first.columns;
  }
  return first.count * first.columns;
}

template <typename Kernel>
void run(int64_t elements, const Kernel& kernel) {
  torch::stable::parallel_for(0, (elements + kBlock - 1) / kBlock, kBlocksPerThread, [&](int64_t first, int64_t last) {
    kernel(first * kBlock, std::min(last * kBlock, elements));
  });
}

void forward(const Tensor& value, const Tensor& gate, int64_t activation, const Rows& out) {
  const int64_t elements = out.count * out.columns;
  if (elements == 0) return;
  const Rows values = rows_of(value), gates = rows_of(gate);
  const GateForward args{
      .out = rows_for(out), .value = rows_for(values), .other = {}, .gate = rows_for(gates),
      .columns = row_length({&out, &values, &gates}), .period = 0, .scale = 1,
      .element = element_of("gated_activation", "value", value), .activation = static_cast<int32_t>(activation),
      .streams = elements * static_cast<int64_t>(value.element_size()) > cache_bytes()};
  run(elements, [&](int64_t begin, int64_t end) { best::gated_activation_forward(args, begin, end); });
}

Tensor gated_activation(const Tensor& value, const Tensor& gate, int64_t activation) {
  check_gate("gated_activation", value, {{"gate", gate}}, activation);
  Tensor out = dense_like(value);
  forward(value, gate, activation, rows_of(out));
  return out;
}

void gated_activation_out(const Tensor& value, const Tensor& gate, int64_t activation, Tensor out) {
  check_gate("gated_activation_out", value, {{"gate", gate}, {"out", out}}, activation);
  check_out("gated_activation_out", out, {{"value", value}, {"gate", gate}});
  const Rows outs = rows_of(out);
  STD_TORCH_CHECK(
      outs.tensor.const_data_ptr() == out.const_data_ptr(),
      "gated_activation_out: out must lie in rows of a fixed distance, but has other strides");
  forward(value, gate, activation, outs);
}

std::tuple<Tensor, Tensor> gated_activation_backward(
    const Tensor& grad, const Tensor& value, const Tensor& gate, int64_t activation) {
  check_gate("gated_activation_backward", value, {{"gate", gate}, {"grad", grad}}, activation);
  Tensor d_value = dense_like(value), d_gate = dense_like(gate);
  const Rows d_values = rows_of(d_value), d_gates = rows_of(d_gate);
  const int64_t elements = d_values.count * d_values.columns;
  if (elements == 0) return {d_value, d_gate};
  const Rows grads = rows_of(grad), values = rows_of(value), gates = rows_of(gate);
  const GateBackward args{
      .d_value = rows_for(d_values), .d_other = {}, .d_gate = rows_for(d_gates), .grad = rows_for(grads),
      .value = rows_for(values), .other = {}, .gate = rows_for(gates),
      .columns = row_length({&d_values, &grads, &values, &gates}), .period = 0, .scale = 1,
      .element = element_of("gated_activation_backward", "value", value),
      .activation = static_cast<int32_t>(activation),
      .streams = elements * static_cast<int64_t>(value.element_size()) > cache_bytes()};
  run(elements, [&](int64_t begin, int64_t end) { best::gated_activation_backward(args, begin, end); });
  return {d_value, d_gate};
}

Tensor two_way_gate(
    const Tensor& y_forward, const Tensor& y_backward, const Tensor& z, int64_t activation, double scale) {
  check_two_way_gate("two_way_gate", y_forward, {{"y_backward", y_backward}, {"z", z}}, activation);
  Tensor out = dense_like(y_forward);
  const Rows outs = as_rows(out);
  const int64_t elements = outs.count * outs.columns;
  if (elements == 0) return out;
  const Rows values = as_rows(y_forward), others = as_rows(y_backward), gates = as_rows(z);
  const GateForward args{
      .out = rows_for(outs), .value = rows_for(values), .other = rows_for(others), .gate = rows_for(gates),
      .columns = outs.columns, .period = out.size(1), .scale = scale,
      .element = element_of("two_way_gate", "y_forward", y_forward), .activation = static_cast<int32_t>(activation),
      .streams = elements * static_cast<int64_t>(out.element_size()) > cache_bytes()};
  run(elements, [&](int64_t begin, int64_t end) { best::gated_activation_forward(args, begin, end); });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> two_way_gate_backward(
    const Tensor& grad, const Tensor& y_forward, const Tensor& y_backward, const Tensor& z, int64_t activation,
    double scale) {
  check_two_way_gate(
      "two_way_gate_backward", y_forward, {{"y_backward", y_backward}, {"z", z}, {"grad", grad}}, activation);
  Tensor d_forward = dense_like(y_forward), d_backward = dense_like(y_forward), d_z = dense_like(y_forward);
  const Rows d_values = as_rows(d_forward), d_others = as_rows(d_backward), d_gates = as_rows(d_z);
  const int64_t elements = d_values.count * d_values.columns;
  if (elements == 0) return {d_forward, d_backward, d_z};
  const Rows grads = as_rows(grad), values = as_rows(y_forward), others = as_rows(y_backward), gates = as_rows(z);
  const GateBackward args{
      .d_value = rows_for(d_values), .d_other = rows_for(d_others), .d_gate = rows_for(d_gates),
      .grad = rows_for(grads), .value = rows_for(values), .other = rows_for(others), .gate = rows_for(gates),
      .columns = d_values.columns, .period = d_forward.size(1), .scale = scale,
      .element = element_of("two_way_gate_backward", "y_forward", y_forward),
      .activation = static_cast<int32_t>(activation),
      .streams = elements * static_cast<int64_t>(grad.element_size()) > cache_bytes()};
  run(elements, [&](int64_t begin, int64_t end) { best::gated_activation_backward(args, begin, end); });
  return {d_forward, d_backward, d_z};
}

}  // namespace

}  // namespace hybridgen

STABLE_TORCH_LIBRARY_IMPL(hybridgen_native, CPU, m) {
  m.impl("gated_activation", TORCH_BOX(&hybridgen::gated_activation));
  m.impl("gated_activation_out", TORCH_BOX(&hybridgen::gated_activation_out));
  m.impl("gated_activation_backward", TORCH_BOX(&hybridgen::gated_activation_backward));
  m.impl("two_way_gate", TORCH_BOX(&hybridgen::two_way_gate));
  m.impl("two_way_gate_backward", TORCH_BOX(&hybridgen::two_way_gate_backward));
}
