// One token through a whole Mamba mixer. What is computed is what linear_rows, causal_conv1d_update,
// selective_state_update or ssd_update and the gated norm compute, by the same kernels and with the same rounding
// between them; what is saved are the calls, and regions of threads: those that follow each other without a gap find the
// threads awake.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>

#include "../gate_checks.h"
#include "causal_conv1d.h"
#include "gated_activation.h"
#include "gated_norm.h"
#include "linear_rows.h"
#include "selective_scan.h"
#include "ssd.h"
#include "tensors.h"

namespace hybridgen {

namespace {

using MaybeTensor = std::optional<Tensor>;
using torch::stable::parallel_for;

constexpr int64_t kUnit = kUpdateBlock;  // channels that a thread takes at once

const void* data(const MaybeTensor& tensor) { return tensor ? tensor->const_data_ptr() : nullptr; }

// Memory for intermediate values, not initialised.
struct Scratch {
  std::unique_ptr<std::byte[]> bytes;

  Scratch(int64_t elements, int64_t element_size)
      : bytes(std::make_unique_for_overwrite<std::byte[]>(elements * element_size)) {}
  std::byte* get() const { return bytes.get(); }
  float* floats() const { return reinterpret_cast<float*>(bytes.get()); }
};

// What both mixers have: the tokens, the projections around the scan, and the convolution.
struct Mixer {
  const char* op;
  Rows x;
  Tensor in_weight, out_weight, conv_weight, conv_state;
  MaybeTensor in_bias, out_bias, conv_bias;
  Element element;
  int64_t size;  // of an element, in bytes
  int64_t rows, d_model, packed, channels, width;

  Mixer(const char* op, const Tensor& x_, const Tensor& conv_state, const Tensor& in_weight, const MaybeTensor& in_bias,
        const Tensor& conv_weight, const MaybeTensor& conv_bias, const Tensor& out_weight, const MaybeTensor& out_bias)
      : op(op), x(as_rows(checked_token(op, x_))), in_weight(dense_rows(in_weight)), out_weight(dense_rows(out_weight)),
        conv_weight(dense_rows(conv_weight)), conv_state(conv_state), in_bias(in_bias), out_bias(out_bias),
        conv_bias(conv_bias), element(element_of(op, "x", x_)), size(x_.element_size()), rows(x.count),
        d_model(x.columns) {
    STD_TORCH_CHECK(element != Element::kFloat64, op, ": x must be float32, bfloat16 or float16, but is float64");
    STD_TORCH_CHECK(in_weight.dim() == 2, op, ": in_weight must have two dimensions, but has shape ",
                    shape_text(in_weight));
    STD_TORCH_CHECK(conv_weight.dim() == 3 && conv_weight.size(0) >= 1 && conv_weight.size(2) >= 1, op,
                    ": conv_weight must have shape (C, 1, K), but has ", shape_text(conv_weight));
    STD_TORCH_CHECK(out_weight.dim() == 2, op, ": out_weight must have two dimensions, but has shape ",
                    shape_text(out_weight));
    packed = in_weight.size(0), channels = conv_weight.size(0), width = conv_weight.size(2);
    check_shape(op, "in_weight", in_weight, {packed, d_model});
    check_shape(op, "conv_weight", conv_weight, {channels, 1, width});
    check_shape(op, "conv_state", conv_state, {rows, channels, width - 1});
    check_writable(op, "conv_state", conv_state);
    STD_TORCH_CHECK(width <= 2 || conv_state.stride(2) == 1, op, ": conv_state must be dense in its last dimension");
    check_row("in_bias", in_bias, packed);
    check_row("conv_bias", conv_bias, channels);
    check_row("out_bias", out_bias, out_weight.size(0));
    for (const auto& [name, tensor] : {std::pair<const char*, const Tensor&>{"in_weight", in_weight},
                                       {"conv_weight", conv_weight}, {"conv_state", conv_state},
                                       {"out_weight", out_weight}}) {
      check_dtype(op, name, tensor, x_.scalar_type());
    }
  }

  static const Tensor& checked_token(const char* op, const Tensor& x) {
    STD_TORCH_CHECK(x.dim() >= 1, op, ": x must have one dimension or more");
    return x;
  }

  // A dense vector in x's dtype.
  void check_row(const char* name, const MaybeTensor& tensor, int64_t length) const {
    check_shape(op, name, tensor, {length});
    check_dtype(op, name, tensor, x.tensor.scalar_type());
    check_dense(name, tensor);
  }

  // A dense tensor in the dtype of the arithmetic.
  void check_parameter(const char* name, const Tensor& tensor, std::initializer_list<int64_t> shape) const {
    check_shape(op, name, tensor, shape);
    check_dtype(op, name, tensor, ScalarType::Float);
    check_dense(name, tensor);
  }

  void check_dense(const char* name, const MaybeTensor& tensor) const {
    STD_TORCH_CHECK(!tensor || tensor->is_contiguous(), op, ": ", name, " must be contiguous");
  }

  LinearRows projection(void* out, const Tensor& weight, const MaybeTensor& bias) const {
    return {out, nullptr, weight.const_data_ptr(), data(bias), rows, weight.size(1), weight.size(0), weight.stride(0),
            element};
  }

  // in_proj into `packed_out`, and the convolution of its outputs begin ... begin + channels into `convolved`. A thread
  // convolves the channels that it has projected.
  void project_and_convolve(std::byte* packed_out, int64_t begin, std::byte* convolved, int64_t activation) {
    const Scratch wide(rows * d_model, sizeof(float));
    best::widen_rows(wide.floats(), x.tensor.const_data_ptr(), element, x.stride, rows, d_model);
    LinearRows in_proj = projection(packed_out, in_weight, in_bias);
    in_proj.x = wide.floats();
    const ConvUpdate conv{
        convolved, packed_out + begin * size, conv_state.mutable_data_ptr(), conv_weight.const_data_ptr(),
        data(conv_bias), packed, conv_state.stride(0), conv_state.stride(1), conv_weight.stride(0), channels, width,
        element, element, static_cast<int32_t>(activation)};
    const int64_t units = (channels + kUnit - 1) / kUnit, end = begin + channels, behind = packed - end;
    parallel_for(0, units, grain(d_model * (packed / units)), [&](int64_t first, int64_t last) {
      const int64_t from = first * kUnit, to = std::min(last * kUnit, channels);
      best::linear_rows(in_proj, begin + from, begin + to);
      for (int64_t row = 0; row < rows; ++row) {
        best::causal_conv1d_update(conv, row * channels + from, row * channels + to);
      }
      best::linear_rows(in_proj, begin * first / units, begin * last / units);
      best::linear_rows(in_proj, end + behind * first / units, end + behind * last / units);
    });
  }

  // out_proj of dense rows.
  Tensor project_out(const Tensor& like, const std::byte* y) {
    std::vector<int64_t> shape(like.sizes().begin(), like.sizes().end());
    shape.back() = out_weight.size(0);
    Tensor out = empty_like(like, shape);
    const int64_t inputs = out_weight.size(1);
    const Scratch wide(rows * inputs, sizeof(float));
    apply_linear_rows(projection(out.mutable_data_ptr(), out_weight, out_bias), y, inputs, wide.floats());
    return out;
  }
};

Tensor mamba1_step(
    const Tensor& x, const Tensor& conv_state, Tensor ssm_state, const Tensor& in_weight, const MaybeTensor& in_bias,
    const Tensor& conv_weight, const MaybeTensor& conv_bias, int64_t conv_activation, const Tensor& x_weight,
    const Tensor& dt_weight, const Tensor& dt_bias, const Tensor& A_log, const Tensor& D, int64_t gate_activation,
    const Tensor& out_weight, const MaybeTensor& out_bias) {
  const char* op = "mamba1_step";
  Mixer mixer(op, x, conv_state, in_weight, in_bias, conv_weight, conv_bias, out_weight, out_bias);
  const int64_t rows = mixer.rows, C = mixer.channels, size = mixer.size;
  STD_TORCH_CHECK(A_log.dim() == 2 && A_log.size(1) >= 1 && A_log.size(1) <= 256, op,
                  ": A_log must have shape (C, N) with N from 1 to 256, but has ", shape_text(A_log));
  STD_TORCH_CHECK(dt_weight.dim() == 2, op, ": dt_weight must have two dimensions, but has shape ",
                  shape_text(dt_weight));
  const int64_t N = A_log.size(1), rank = dt_weight.size(1), mixed = rank + 2 * N;
  check_shape(op, "in_weight", in_weight, {2 * C, mixer.d_model});
  check_shape(op, "out_weight", out_weight, {out_weight.size(0), C});
  check_shape(op, "x_weight", x_weight, {mixed, C});
  check_shape(op, "dt_weight", dt_weight, {C, rank});
  check_dtype(op, "x_weight", x_weight, x.scalar_type());
  check_dtype(op, "dt_weight", dt_weight, x.scalar_type());
  mixer.check_parameter("dt_bias", dt_bias, {C});
  mixer.check_parameter("A_log", A_log, {C, N});
  mixer.check_parameter("D", D, {C});
  check_writable(op, "ssm_state", ssm_state);
  mixer.check_parameter("ssm_state", ssm_state, {rows, C, N});
  check_activation(op, conv_activation, "conv_activation");
  check_activation(op, gate_activation, "gate_activation");

  const Scratch packed(rows * 2 * C, size), u(rows * C, size), mix(rows * mixed, size), dt(rows * C, size);
  const Scratch y(rows * C, size), wide(rows * std::max(C, rank), sizeof(float));
  mixer.project_and_convolve(packed.get(), 0, u.get(), conv_activation);
  const Tensor x_weights = dense_rows(x_weight), dt_weights = dense_rows(dt_weight);
  apply_linear_rows(mixer.projection(mix.get(), x_weights, {}), u.get(), C, wide.floats());

  LinearRows dt_proj = mixer.projection(dt.get(), dt_weights, {});
  dt_proj.x = wide.floats();
  best::widen_rows(wide.floats(), mix.get(), mixer.element, mixed, rows, rank);
  const auto part = [size](const Scratch& scratch, int64_t start, int64_t row) {
    return Sequence{scratch.get() + start * size, row, 0, 0};
  };
  const SelectiveUpdate update{
      part(u, 0, C), part(dt, 0, C), part(packed, C, 2 * C), part(mix, rank, mixed), part(mix, rank + N, mixed),
      part(y, 0, C), A_log.const_data_ptr(), D.const_data_ptr(), dt_bias.const_data_ptr(),
      ssm_state.mutable_data_ptr(), C, 1, N, mixer.element, static_cast<int32_t>(gate_activation), true};
  const int64_t units = (C + kUnit - 1) / kUnit;
  parallel_for(0, units, grain(kUnit * rows * (rank + 4 * N)), [&](int64_t first, int64_t last) {
    best::linear_rows(dt_proj, first * kUnit, std::min(last * kUnit, C));
    for (int64_t row = 0; row < rows; ++row) best::selective_state_update(update, row * units + first, row * units + last);
  });
  return mixer.project_out(x, y.get());
}

// The recurrence of Mamba-2 over one token: x, B and C side by side in `convolved`, dt in rows `packed` apart.
struct Heads {
  int64_t H, P, N, groups;
  double dt_min, dt_max;

  SsdInputs inputs(const Mixer& mixer, const std::byte* convolved, const std::byte* dt, const float* A,
                   const Tensor& dt_bias, const Tensor& D) const {
    const int64_t state_size = groups * N;
    const bool per_channel = D.size(0) != H;
    SsdInputs in{};
    in.x = convolved;
    in.B = convolved + H * P * mixer.size;
    in.C = convolved + (H * P + state_size) * mixer.size;
    in.dt = dt;
    in.A = A;
    in.D = D.const_data_ptr();
    in.dt_bias = dt_bias.const_data_ptr();
    in.x_batch = in.B_batch = in.C_batch = mixer.channels;
    in.x_head = P, in.B_group = in.C_group = N;
    in.dt_batch = mixer.packed, in.dt_head = 1;
    in.D_head = per_channel ? P : 1, in.D_channel = per_channel ? 1 : 0;
    in.batch = mixer.rows, in.T = 1, in.H = H, in.P = P, in.G = groups, in.N = N;
    in.dt_min = dt_min, in.dt_max = dt_max;
    in.element = in.dt_element = mixer.element;
    return in;
  }
};

Tensor mamba2_step(
    const Tensor& x, const Tensor& conv_state, Tensor ssm_state, const Tensor& in_weight, const MaybeTensor& in_bias,
    const Tensor& conv_weight, const MaybeTensor& conv_bias, const Tensor& dt_bias, const Tensor& A_log,
    const Tensor& D, int64_t groups, double dt_min, double dt_max, const MaybeTensor& norm_weight, double norm_eps,
    bool norm_before_gate, int64_t gate_activation, const Tensor& out_weight, const MaybeTensor& out_bias) {
  const char* op = "mamba2_step";
  Mixer mixer(op, x, conv_state, in_weight, in_bias, conv_weight, conv_bias, out_weight, out_bias);
  STD_TORCH_CHECK(ssm_state.dim() == 4, op, ": ssm_state must have shape (B, H, P, N), but has ", shape_text(ssm_state));
  const int64_t rows = mixer.rows, C = mixer.channels, packed = mixer.packed, size = mixer.size;
  const int64_t H = ssm_state.size(1), P = ssm_state.size(2), N = ssm_state.size(3), d_ssm = H * P;
  const int64_t d_inner = out_weight.size(1), d_mlp = d_inner - d_ssm;
  STD_TORCH_CHECK(groups >= 1 && H >= 1 && H % groups == 0, op, ": groups must divide the ", H, " heads, but is ", groups);
  STD_TORCH_CHECK(d_mlp >= 0, op, ": out_weight must have at least ", d_ssm, " columns, but has ", d_inner);
  check_shape(op, "conv_weight", conv_weight, {d_ssm + 2 * groups * N, 1, mixer.width});
  check_shape(op, "in_weight", in_weight, {d_inner + d_mlp + C + H, mixer.d_model});
  mixer.check_parameter("dt_bias", dt_bias, {H});
  mixer.check_parameter("A_log", A_log, {H});
  mixer.check_parameter("D", D, {D.dim() == 1 && D.size(0) == d_ssm ? d_ssm : H});
  check_writable(op, "ssm_state", ssm_state);
  mixer.check_parameter("ssm_state", ssm_state, {rows, H, P, N});
  mixer.check_row("norm_weight", norm_weight, d_ssm);
  check_activation(op, gate_activation, "gate_activation");

  const Scratch projected(rows * packed, size), convolved(rows * C, size), scanned(rows * d_ssm, size);
  const Scratch y(rows * d_inner, size), A(H, sizeof(float));
  const int64_t begin = 2 * d_mlp + d_ssm;
  mixer.project_and_convolve(projected.get(), begin, convolved.get(), 0);
  for (int64_t h = 0; h < H; ++h) A.floats()[h] = -std::exp(static_cast<const float*>(A_log.const_data_ptr())[h]);
  const Heads heads{H, P, N, groups, dt_min, dt_max};
  const SsdUpdate update{
      heads.inputs(mixer, convolved.get(), projected.get() + (begin + C) * size, A.floats(), dt_bias, D),
      scanned.get(), ssm_state.mutable_data_ptr(), ssm_state.stride(0), ssm_state.stride(1), ssm_state.stride(2)};
  parallel_for(0, rows * H, grain(4 * P * N), [&](int64_t first, int64_t last) {
    best::ssd_update(update, first, last);
  });

  const auto kind = static_cast<int32_t>(gate_activation);
  const auto gated = [&](int64_t columns, std::byte* out, GateRows value, std::byte* gate) {
    const GateForward args{
        .out = {out, d_inner}, .value = value, .other = {}, .gate = {gate, packed}, .columns = columns, .period = 0,
        .scale = 1, .element = mixer.element, .activation = kind, .streams = false};
    best::gated_activation_forward(args, 0, rows * columns);
  };
  std::byte *z = projected.get() + 2 * d_mlp * size, *scan_out = y.get() + d_mlp * size;
  if (d_mlp) gated(d_mlp, y.get(), {projected.get() + d_mlp * size, packed}, projected.get());
  if (norm_weight) {
    const GatedNorm norm{scan_out, scanned.get(), z, data(norm_weight), d_inner, d_ssm, packed, d_ssm, groups,
                         norm_eps, mixer.element, kind, norm_before_gate};
    best::gated_norm(norm, 0, rows);
  } else {
    gated(d_ssm, scan_out, {scanned.get(), d_ssm}, z);
  }
  return mixer.project_out(x, y.get());
}

}  // namespace

}  // namespace hybridgen

STABLE_TORCH_LIBRARY_IMPL(hybridgen_native, CPU, m) {
  m.impl("mamba1_step", TORCH_BOX(&hybridgen::mamba1_step));
  m.impl("mamba2_step", TORCH_BOX(&hybridgen::mamba2_step));
}
