#include "causal_conv1d.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>

#include "tensors.h"

namespace hybridgen {

namespace {

using torch::stable::parallel_for;

int64_t cuts(int64_t size, int64_t part) { return size ? (size + part - 1) / part : 1; }

// (..., R, C) -> (..., C, R), dense and of this dtype.
Tensor swapped(const Tensor& tensor, ScalarType type) {
  const int64_t last = tensor.dim() - 1;
  return torch::stable::contiguous(torch::stable::to(torch::stable::transpose(tensor, last - 1, last), type));
}

// x in one of the kernels' dtypes; weight and bias in that or in the compute dtype.
void check_parameters(
    const char* op, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, int64_t activation) {
  check_activation(op, activation);
  element_of(op, "x", x);
  if (weight.scalar_type() != x.scalar_type()) check_dtype(op, "weight", weight, compute_type(x));
  check_dtype(op, "bias", bias, weight.scalar_type());
}

// A call's input with what holds its converted parts.
struct HeldInput {
  ConvInput input;
  Tensor x;
  std::vector<double> room;  // for zeros and taps
  std::optional<Tensor> history, resets;
};

// The taps (K, C) and behind them the bias, from a weight (C, K), in the compute dtype. A loop of its own, since every
// operator of torch that is called from here costs as much as some tokens.
template <typename W, typename S>
void fill_taps(S* taps, const Tensor& weight, const std::optional<Tensor>& bias) {
  const int64_t C = weight.size(0), K = weight.size(1), channel = weight.stride(0), tap = weight.stride(1);
  const W* from = static_cast<const W*>(weight.const_data_ptr());
  for (int64_t c = 0; c < C; ++c)
    for (int64_t k = 0; k < K; ++k) taps[k * C + c] = static_cast<S>(from[c * channel + k * tap]);
  const W* first = bias ? static_cast<const W*>(bias->const_data_ptr()) : nullptr;
  for (int64_t c = 0; c < C; ++c) taps[K * C + c] = first ? static_cast<S>(first[c * bias->stride(0)]) : S(0);
}

// Of the dtypes that check_parameters lets through.
void* fill_taps(void* taps, const Tensor& weight, const std::optional<Tensor>& bias) {
  switch (weight.scalar_type()) {
    case ScalarType::Double: fill_taps<double>(static_cast<double*>(taps), weight, bias); break;
    case ScalarType::BFloat16: fill_taps<torch::headeronly::BFloat16>(static_cast<float*>(taps), weight, bias); break;
    case ScalarType::Half: fill_taps<torch::headeronly::Half>(static_cast<float*>(taps), weight, bias); break;
    default: fill_taps<float>(static_cast<float*>(taps), weight, bias);
  }
  return taps;
}

HeldInput hold_input(
    const char* op, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, int64_t activation,
    const std::optional<Tensor>& initial_state, const std::optional<Tensor>& resets, bool reverse) {
  STD_TORCH_CHECK(x.dim() == 3, op, ": x must have shape (B, T, C), but has ", shape_text(x));
  STD_TORCH_CHECK(weight.dim() == 2, op, ": weight must have shape (C, K), but has ", shape_text(weight));
  const int64_t B = x.size(0), T = x.size(1), C = x.size(2), K = weight.size(1);
  STD_TORCH_CHECK(K >= 1, op, ": weight must have at least one tap, but has shape ", shape_text(weight));
  check_shape(op, "weight", weight, {C, K});
  check_shape(op, "bias", bias, {C});
  check_shape(op, "initial_state", initial_state, {B, C, K - 1});
  check_shape(op, "resets", resets, {B, T});
  check_dtype(op, "resets", resets, ScalarType::Bool);
  check_parameters(op, x, weight, bias, activation);
  if (initial_state) element_of(op, "initial_state", *initial_state);

  HeldInput held{{}, dense_rows(x), std::vector<double>((K + 2) * C), {}, {}};
  const void* taps = fill_taps(held.room.data() + C, weight, bias);
  if (initial_state) held.history = swapped(*initial_state, x.scalar_type());
  if (resets) held.resets = torch::stable::contiguous(*resets);

  const int64_t time = held.x.stride(1);
  const int64_t start = reverse && T ? (T - 1) * time : 0;
  held.input = ConvInput{
      static_cast<const char*>(held.x.const_data_ptr()) + start * held.x.element_size(),
      held.history ? held.history->const_data_ptr() : nullptr,
      held.room.data(),
      taps,
      held.resets ? static_cast<const uint8_t*>(held.resets->const_data_ptr()) : nullptr,
      held.x.stride(0), reverse ? -time : time, T, C, K,
      element_of(op, "x", x), static_cast<int32_t>(activation), reverse};
  return held;
}

// Where the first token in the direction of the convolution lies in a dense (B, T, C).
char* first_token(const Tensor& tensor, bool reverse) {
  const int64_t start = reverse && tensor.size(1) ? (tensor.size(1) - 1) * tensor.stride(1) : 0;
  return static_cast<char*>(const_cast<void*>(tensor.const_data_ptr())) + start * tensor.element_size();
}

std::tuple<Tensor, Tensor> causal_conv1d(
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, int64_t activation,
    const std::optional<Tensor>& initial_state, const std::optional<Tensor>& resets, bool reverse) {
  const HeldInput held = hold_input("causal_conv1d", x, weight, bias, activation, initial_state, resets, reverse);
  const ConvInput& in = held.input;
  const int64_t B = x.size(0), T = in.tokens, C = in.channels;
  Tensor y = empty_like(x, {B, T, C}), final_state = empty_like(x, {B, C, in.width - 1});
  const ConvForward args{
      in, first_token(y, reverse), final_state.mutable_data_ptr(), y.stride(0), reverse ? -y.stride(1) : y.stride(1)};
  const int64_t tasks = C ? B * cuts(T, kConvForwardTokens) * cuts(C, kConvChannels) : 0;
  parallel_for(0, tasks, grain(std::min(C, kConvChannels) * std::min(T, kConvForwardTokens)),
               [&](int64_t first, int64_t last) { best::causal_conv1d_forward(args, first, last); });
  return {y, final_state};
}

// dx in x's dtype; the gradients of weight, bias and initial_state (empty without one) in the compute dtype.
std::tuple<Tensor, Tensor, Tensor, Tensor> causal_conv1d_backward(
    const Tensor& grad, const std::optional<Tensor>& grad_final, const Tensor& x, const Tensor& weight,
    const std::optional<Tensor>& bias, int64_t activation, const std::optional<Tensor>& initial_state,
    const std::optional<Tensor>& resets, bool reverse) {
  const char* op = "causal_conv1d_backward";
  const HeldInput held = hold_input(op, x, weight, bias, activation, initial_state, resets, reverse);
  const ConvInput& in = held.input;
  const int64_t B = x.size(0), T = in.tokens, C = in.channels, K = in.width;
  check_shape(op, "grad", grad, {B, T, C});
  check_dtype(op, "grad", grad, x.scalar_type());
  check_shape(op, "grad_final", grad_final, {B, C, K - 1});
  if (grad_final) element_of(op, "grad_final", *grad_final);

  const Tensor grads = dense_rows(grad);
  std::optional<Tensor> final_rows;
  if (grad_final) final_rows = swapped(*grad_final, compute_type(x));
  Tensor dx = empty_like(x, {B, T, C});
  Tensor dhistory = empty_like(x, {initial_state ? B : 0, K - 1, C}, compute_type(x));
  Tensor partial = empty_like(x, {B * cuts(T, kConvBackwardTokens), K + 1, C}, compute_type(x));
  const ConvBackward args{
      in, first_token(grads, reverse), final_rows ? final_rows->const_data_ptr() : nullptr, first_token(dx, reverse),
      initial_state ? dhistory.mutable_data_ptr() : nullptr, partial.mutable_data_ptr(),
      grads.stride(0), reverse ? -grads.stride(1) : grads.stride(1),
      dx.stride(0), reverse ? -dx.stride(1) : dx.stride(1)};
  const int64_t tasks = C ? partial.size(0) * cuts(C, kConvChannels) : 0;
  parallel_for(0, tasks, grain(std::min(C, kConvChannels) * std::min(T, kConvBackwardTokens)),
               [&](int64_t first, int64_t last) { best::causal_conv1d_backward(args, first, last); });

  const int64_t chunks[] = {0};
  const Tensor total = torch::stable::sum(partial, chunks);
  const Tensor dweight = swapped(torch::stable::narrow(const_cast<Tensor&>(total), 0, 0, K), compute_type(x));
  const Tensor dbias = torch::stable::clone(torch::stable::select(total, 0, K));
  const Tensor dinitial =
      initial_state ? swapped(dhistory, compute_type(x)) : empty_like(x, {0}, compute_type(x));
  return {dx, dweight, dbias, dinitial};
}

Tensor causal_conv1d_update(
    const Tensor& x, Tensor state, const Tensor& weight, const std::optional<Tensor>& bias, int64_t activation) {
  const char* op = "causal_conv1d_update";
  STD_TORCH_CHECK(x.dim() == 2, op, ": x must have shape (B, C), but has ", shape_text(x));
  STD_TORCH_CHECK(weight.dim() == 2, op, ": weight must have shape (C, K), but has ", shape_text(weight));
  const int64_t B = x.size(0), C = x.size(1), K = weight.size(1);
  STD_TORCH_CHECK(K >= 1, op, ": weight must have at least one tap, but has shape ", shape_text(weight));
  check_shape(op, "weight", weight, {C, K});
  check_shape(op, "bias", bias, {C});
  check_shape(op, "state", state, {B, C, K - 1});
  check_dtype(op, "state", state, x.scalar_type());
  check_parameters(op, x, weight, bias, activation);
  check_writable(op, "state", state);
  STD_TORCH_CHECK(K <= 2 || state.stride(2) == 1, op, ": state must be dense in its last dimension");

  const Tensor inputs = dense_rows(x), taps = dense_rows(weight);
  Tensor y = empty_like(x, {B, C});
  const std::optional<Tensor> dense_bias = bias ? std::optional(torch::stable::contiguous(*bias)) : std::nullopt;
  const ConvUpdate args{
      y.mutable_data_ptr(), inputs.const_data_ptr(), state.mutable_data_ptr(), taps.const_data_ptr(),
      dense_bias ? dense_bias->const_data_ptr() : nullptr,
      inputs.stride(0), state.stride(0), state.stride(1), taps.stride(0), C, K,
      element_of(op, "x", x), element_of(op, "weight", weight), static_cast<int32_t>(activation)};
  parallel_for(0, B * C, 16384,
               [&](int64_t first, int64_t last) { best::causal_conv1d_update(args, first, last); });
  return y;
}

}  // namespace

}  // namespace hybridgen

STABLE_TORCH_LIBRARY_IMPL(hybridgen_native, CPU, m) {
  m.impl("causal_conv1d", TORCH_BOX(&hybridgen::causal_conv1d));
  m.impl("causal_conv1d_backward", TORCH_BOX(&hybridgen::causal_conv1d_backward));
  m.impl("causal_conv1d_update", TORCH_BOX(&hybridgen::causal_conv1d_update));
}
