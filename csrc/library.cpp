// The table of contents: every operator of the extension, with its schema. CPU and CUDA files add the implementations,
// hybridgen/ops adds fake kernels and gradients. Tensors are (batch, time, channels); activations are numbers, in the
// order of hybridgen.ops.activations.ACTIVATIONS. `out` arguments may be the operator's own inputs where it says so.
#include <torch/csrc/stable/library.h>

#include "cpu/kernels.h"
#include "interface.h"

namespace {

int64_t cpu_capability() { return static_cast<int64_t>(hybridgen::isa()); }

}  // namespace

HYBRIDGEN_INTERFACE

// When a schema changes, raise the number in interface.h and INTERFACE in hybridgen/ops/native.py.
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

  // ---- selective scan (Mamba-1); sequences in one dtype, parameters and states float32 (float64 for float64) ----
  // y, the state after the last token, and the states before every 64th token, (chunks, B, N, D), if kept.
  m.def(
      "selective_scan(Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dt_bias, "
      "int activation, Tensor? initial_state, Tensor? resets, bool reverse, bool keep_states) "
      "-> (Tensor, Tensor, Tensor)");
  // The gradients of u, dt, A, B, C, D, z, dt_bias and initial_state; empty tensors for absent inputs.
  m.def(
      "selective_scan_backward(Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, "
      "Tensor? dt_bias, int activation, Tensor? initial_state, Tensor? resets, bool reverse, Tensor kept, "
      "Tensor grad_y, Tensor? grad_final) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  // (scan of one direction + scan of the other from the last token to the first) * act(z) * scale. A direction is u
  // (B, T, D), dt (B, T, R), dt_weight (D, R), dt_bias, A_log = log(-A), B and C (B, T, N), D; none may be left out.
  m.def(
      "selective_scan_two_way(Tensor[] forward, Tensor[] backward, Tensor z, int activation, float scale) -> Tensor");
  // One token; the state advances in place.
  m.def(
      "selective_state_update(Tensor(a!) state, Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, "
      "Tensor? z, Tensor? dt_bias, int activation) -> Tensor");

  // ---- causal convolution: x (B, T, C), weight (C, K), states (B, C, K-1), resets (B, T) ----
  m.def(
      "causal_conv1d(Tensor x, Tensor weight, Tensor? bias, int activation, Tensor? initial_state, Tensor? resets, "
      "bool reverse) -> (Tensor, Tensor)");
  m.def(
      "causal_conv1d_backward(Tensor grad, Tensor? grad_final, Tensor x, Tensor weight, Tensor? bias, int activation, "
      "Tensor? initial_state, Tensor? resets, bool reverse) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("causal_conv1d_update(Tensor x, Tensor(a!) state, Tensor weight, Tensor? bias, int activation) -> Tensor");

  // ---- state-space duality (Mamba-2) ----
  // A, D, dt_bias and states in the dtype of the arithmetic, float32 or float64. The kept states are those before every
  // 64th token, (batch, ceil(T / 64), H, N, P); none unless asked for.
  m.def(
      "ssd_scan(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? dt_bias, float dt_min, "
      "float dt_max, Tensor? initial_state, Tensor? resets, bool keep_states) -> (Tensor, Tensor, Tensor)");
  // Gradients of x, dt (in the arithmetic's dtype), A per row of the batch, B, C, D per row and channel, initial_state.
  m.def(
      "ssd_scan_backward(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? dt_bias, float dt_min, "
      "float dt_max, Tensor? initial_state, Tensor? resets, Tensor kept, Tensor dy, Tensor? dfinal) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "ssd_update(Tensor(a!) state, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? dt_bias, "
      "float dt_min, float dt_max) -> Tensor");

  // ---- selective attention: lists of q (B, H, T, P) and k (B, K, S, P) whose scores are added, v (B, K, S, V),
  // choosers (B, T, P) and (B, S, P), all in one dtype; sinks, slopes (H) and hidden (B, S - T) in that of the
  // arithmetic; starts (B, T) and until (B, S) int64 ----
  // y, F of all keys, and if kept the logarithms of the softmax's sums (B, H, T) and F at the blocks (B, blocks, S).
  m.def(
      "selective_attention(Tensor[] q, Tensor[] k, Tensor v, Tensor? sinks, Tensor? hidden, Tensor? starts, "
      "Tensor? slopes, Tensor? until, Tensor[] chooser_q, Tensor[] chooser_k, float scale, int? selection_head, "
      "bool protect_bos, int? window, float? softcap, bool causal, bool over_time, bool keep) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  // One q and k, whose products are added to the table `before` (B, H, T, S) and the sums written to `total`, which may
  // be `before`; `share` times these attend. In both tables, of the arithmetic's dtype, the queries are dense. y and F.
  m.def(
      "selective_attention_table(Tensor q, Tensor k, Tensor v, Tensor? sinks, Tensor? hidden, Tensor? starts, "
      "float scale, int? selection_head, bool protect_bos, int? window, float? softcap, bool causal, Tensor? before, "
      "float share, Tensor(a!) total) -> (Tensor, Tensor)");
  // The gradients of all q, all k, all chooser_q, all chooser_k, v, sinks (empty if there are none) and hidden.
  m.def(
      "selective_attention_backward(Tensor[] q, Tensor[] k, Tensor v, Tensor? sinks, Tensor? starts, Tensor? slopes, "
      "Tensor? until, Tensor[] chooser_q, Tensor[] chooser_k, float scale, int? selection_head, bool protect_bos, "
      "int? window, float? softcap, bool causal, bool over_time, Tensor y, Tensor sums, Tensor kept, Tensor dy, "
      "Tensor dF) -> Tensor[]");

  // ---- residual addition and norm: branch and residual (..., D), weight and bias (D), any mixture of dtypes in which
  // all tensors are float64 or none is ----
  // The norm of branch + residual in weight's dtype, and the sum, rounded; no sum (an empty tensor) unless it has a dtype.
  m.def(
      "add_norm(Tensor branch, Tensor? residual, Tensor weight, Tensor? bias, float weight_offset, float eps, "
      "bool is_rms, ScalarType? total_type) -> (Tensor, Tensor)");
  // The gradients of branch, residual (empty unless it has a dtype), weight and bias.
  m.def(
      "add_norm_backward(Tensor grad, Tensor? grad_total, Tensor branch, Tensor? residual, Tensor weight, Tensor? bias, "
      "float weight_offset, float eps, bool is_rms, ScalarType branch_type, ScalarType? residual_type) "
      "-> (Tensor, Tensor, Tensor, Tensor)");

  // ---- linear map of few rows: x (..., K), weight (O, K), bias (O) -> (..., O); any number, fast for few ----
  m.def("linear_rows(Tensor x, Tensor weight, Tensor? bias) -> Tensor");

  // ---- one token through a whole mixer, from in_proj to out_proj: x (..., d_model), one row per row of the states,
  // which advance in place; sequences and weights in one dtype, parameters of the scan and its state float32 ----
  m.def(
      "mamba1_step(Tensor x, Tensor(a!) conv_state, Tensor(b!) ssm_state, Tensor in_weight, Tensor? in_bias, "
      "Tensor conv_weight, Tensor? conv_bias, int conv_activation, Tensor x_weight, Tensor dt_weight, Tensor dt_bias, "
      "Tensor A_log, Tensor D, int gate_activation, Tensor out_weight, Tensor? out_bias) -> Tensor");
  // D is (H) or (H * P). Without a norm_weight the output is gated only.
  m.def(
      "mamba2_step(Tensor x, Tensor(a!) conv_state, Tensor(b!) ssm_state, Tensor in_weight, Tensor? in_bias, "
      "Tensor conv_weight, Tensor? conv_bias, Tensor dt_bias, Tensor A_log, Tensor D, int groups, float dt_min, "
      "float dt_max, Tensor? norm_weight, float norm_eps, bool norm_before_gate, int gate_activation, "
      "Tensor out_weight, Tensor? out_bias) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(hybridgen_native, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&cpu_capability));
}
