// The table of contents: every operator of the extension, with its schema. CPU and CUDA files add the implementations,
// hybridgen/ops adds fake kernels and gradients. Tensors are (batch, time, channels); activations are numbers, in the
// order of hybridgen.ops.activations.ACTIVATIONS. `out` arguments may be the operator's own inputs where it says so.
#include <torch/csrc/stable/library.h>

#include "cpu/kernels.h"

namespace {

int64_t cpu_capability() { return static_cast<int64_t>(hybridgen::isa()); }

}  // namespace

STABLE_TORCH_LIBRARY(hybridgen_native, m) {
  // 0 baseline, 1 AVX2, 2 AVX-512: which build of the CPU kernels runs.
  m.def("cpu_capability() -> int");

  // ---- gated activation: value * act(gate), shapes (..., D) ----
  m.def("gated_activation(Tensor value, Tensor gate, int activation) -> Tensor");
  m.def("gated_activation_backward(Tensor grad, Tensor value, Tensor gate, int activation) -> (Tensor, Tensor)");
  // `out` may be `value` itself.
  m.def("gated_activation_out(Tensor value, Tensor gate, int activation, Tensor(a!) out) -> ()");
  // (y_forward + flip(y_backward, dim 1)) * act(z) * scale, shapes (B, T, D).
  m.def("two_way_gate(Tensor y_forward, Tensor y_backward, Tensor z, int activation, float scale) -> Tensor");
  m.def(
      "two_way_gate_backward(Tensor grad, Tensor y_forward, Tensor y_backward, Tensor z, int activation, float scale)"
      " -> (Tensor, Tensor, Tensor)");

  // ---- selective scan (Mamba-1) ----

  // ---- causal convolution: x (B, T, C), weight (C, K), states (B, C, K-1), resets (B, T) ----
  m.def(
      "causal_conv1d(Tensor x, Tensor weight, Tensor? bias, int activation, Tensor? initial_state, Tensor? resets, "
      "bool reverse) -> (Tensor, Tensor)");
  m.def(
      "causal_conv1d_backward(Tensor grad, Tensor? grad_final, Tensor x, Tensor weight, Tensor? bias, int activation, "
      "Tensor? initial_state, Tensor? resets, bool reverse) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("causal_conv1d_update(Tensor x, Tensor(a!) state, Tensor weight, Tensor? bias, int activation) -> Tensor");

  // ---- state-space duality (Mamba-2) ----

  // ---- residual addition and norm ----

  // ---- linear map of few rows ----

}

STABLE_TORCH_LIBRARY_IMPL(hybridgen_native, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&cpu_capability));
}
