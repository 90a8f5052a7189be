// value * act(gate) and its two-direction form on the GPU. Both are bound by memory: each thread moves 16 bytes of every
// tensor where the addresses allow it, all loads before the arithmetic.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <tuple>

#include "../cpu/tensors.h"
#include "../gate_checks.h"
#include "../interface.h"
#include "activations.cuh"

namespace hybridgen::cuda {

namespace {

constexpr int kThreads = 256;

// A tensor as rows of equal length, `stride` elements apart.
struct GateRows {
  void* data;
  int64_t stride;
};

// Forward: out = value * act(gate); backward: d_value and d_gate from grad. With `period` > 0 the value is
// (value + other) * scale, where `other` runs backwards within each group of `period` rows.
struct GateArgs {
  GateRows out, grad, value, other, gate, d_value, d_other, d_gate;
  int64_t rows, columns;
  uint32_t period, blocks_per_row;
  double scale;
  int32_t activation;
};

template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T items[kCount];
};

template <typename T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};

// `count` elements of a row from `column`; what lies beyond them is zero and is not stored.
template <typename T, int kCount>
__device__ Pack<T, kCount> load(const GateRows& rows, int64_t row, int64_t column, int count) {
  const T* from = static_cast<const T*>(rows.data) + row * rows.stride + column;
  if (count == kCount) return *reinterpret_cast<const Pack<T, kCount>*>(from);
  Pack<T, kCount> pack{};
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (i < count) pack.items[i] = from[i];
  }
  return pack;
}

template <typename T, int kCount>
__device__ void store(const GateRows& rows, int64_t row, int64_t column, int count, const Pack<T, kCount>& pack) {
  T* to = static_cast<T*>(rows.data) + row * rows.stride + column;
  if (count == kCount) {
    *reinterpret_cast<Pack<T, kCount>*>(to) = pack;
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (i < count) to[i] = pack.items[i];
  }
}

// Where this thread works.
struct Place {
  int64_t row, partner, column;
  int count;
};

template <int kCount, bool kTwoWay>
__device__ Place place_of(const GateArgs& args) {
  Place place;
  place.row = int64_t{blockIdx.x / args.blocks_per_row} * blockDim.y + threadIdx.y;
  place.column = (int64_t{blockIdx.x % args.blocks_per_row} * blockDim.x + threadIdx.x) * kCount;
  const int64_t rest = place.row < args.rows ? args.columns - place.column : 0;
  place.count = rest < kCount ? static_cast<int>(rest) : kCount;
  if constexpr (kTwoWay) {
    const uint32_t t = static_cast<uint32_t>(place.row) % args.period;
    place.partner = place.row - t + (args.period - 1 - t);
  }
  return place;
}

template <typename T, int kCount, bool kTwoWay>
__global__ void __launch_bounds__(kThreads) forward_kernel(const GateArgs args) {
  using C = typename ComputeOf<T>::type;
  const Place place = place_of<kCount, kTwoWay>(args);
  if (place.count <= 0) return;
  const auto value = load<T, kCount>(args.value, place.row, place.column, place.count);
  const auto gate = load<T, kCount>(args.gate, place.row, place.column, place.count);
  Pack<T, kCount> other, out;
  if constexpr (kTwoWay) other = load<T, kCount>(args.other, place.partner, place.column, place.count);
  with_activation(args.activation, [&]<Activation kind>() {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      C v = static_cast<C>(value.items[i]);
      if constexpr (kTwoWay) v = (v + static_cast<C>(other.items[i])) * static_cast<C>(args.scale);
      out.items[i] = static_cast<T>(v * activate<kind>(static_cast<C>(gate.items[i])).value);
    }
  });
  store(args.out, place.row, place.column, place.count, out);
}

template <typename T, int kCount, bool kTwoWay>
__global__ void __launch_bounds__(kThreads) backward_kernel(const GateArgs args) {
  using C = typename ComputeOf<T>::type;
  const Place place = place_of<kCount, kTwoWay>(args);
  if (place.count <= 0) return;
  const auto grad = load<T, kCount>(args.grad, place.row, place.column, place.count);
  const auto value = load<T, kCount>(args.value, place.row, place.column, place.count);
  const auto gate = load<T, kCount>(args.gate, place.row, place.column, place.count);
  Pack<T, kCount> other, d_value, d_gate;
  if constexpr (kTwoWay) other = load<T, kCount>(args.other, place.partner, place.column, place.count);
  with_activation(args.activation, [&]<Activation kind>() {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const C g = kTwoWay ? static_cast<C>(grad.items[i]) * static_cast<C>(args.scale) : static_cast<C>(grad.items[i]);
      C v = static_cast<C>(value.items[i]);
      if constexpr (kTwoWay) v += static_cast<C>(other.items[i]);
      const ValueSlope<C> act = activate<kind>(static_cast<C>(gate.items[i]));
      d_value.items[i] = static_cast<T>(g * act.value);
      d_gate.items[i] = static_cast<T>(g * v * act.slope);
    }
  });
  store(args.d_value, place.row, place.column, place.count, d_value);
  if constexpr (kTwoWay) store(args.d_other, place.partner, place.column, place.count, d_value);
  store(args.d_gate, place.row, place.column, place.count, d_gate);
}

// ---- host ----

Rows rows_of(const Tensor& tensor) { return tensor.dim() == 0 ? Rows{tensor, 1, 1, 1} : as_rows(tensor); }

GateRows rows_for(const Rows& rows) { return {const_cast<void*>(rows.tensor.const_data_ptr()), rows.stride}; }

// The tensors of one call as rows; keeps copies alive until the kernel is launched.
struct Call {
  const char* op;
  Tensor first;
  std::vector<Rows> kept;
  bool dense = true, aligned = true;

  GateRows add(const Tensor& tensor) {
    kept.push_back(rows_of(tensor));
    const Rows& rows = kept.back();
    const int64_t row_bytes = rows.stride * static_cast<int64_t>(tensor.element_size());
    dense = dense && (rows.count <= 1 || rows.stride == rows.columns);
    aligned = aligned && reinterpret_cast<uintptr_t>(rows.tensor.const_data_ptr()) % 16 == 0 &&
              (rows.count <= 1 || row_bytes % 16 == 0);
    return rows_for(rows);
  }
};

template <typename T, int kCount, bool kBackward>
void launch(GateArgs args, dim3 grid, dim3 block, cudaStream_t stream) {
  if constexpr (kBackward) {
    if (args.period) {
      backward_kernel<T, kCount, true><<<grid, block, 0, stream>>>(args);
    } else {
      backward_kernel<T, kCount, false><<<grid, block, 0, stream>>>(args);
    }
  } else if (args.period) {
    forward_kernel<T, kCount, true><<<grid, block, 0, stream>>>(args);
  } else {
    forward_kernel<T, kCount, false><<<grid, block, 0, stream>>>(args);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, bool kBackward>
void run_typed(const Call& call, GateArgs args, cudaStream_t stream) {
  constexpr int wide = 16 / sizeof(T);
  // Dense tensors are one long row, whose start alone must be aligned.
  const bool flat = call.dense && args.period == 0;
  args.rows = flat ? 1 : call.kept.front().count;
  args.columns = flat ? call.kept.front().count * call.kept.front().columns : call.kept.front().columns;
  bool aligned = call.aligned;
  if (flat) {
    aligned = std::all_of(call.kept.begin(), call.kept.end(), [](const Rows& rows) {
      return reinterpret_cast<uintptr_t>(rows.tensor.const_data_ptr()) % 16 == 0;
    });
  }
  const int64_t packs = aligned ? (args.columns + wide - 1) / wide : args.columns;
  // Short rows share a block.
  int x = 1;
  while (x < kThreads && x < packs) x *= 2;
  const dim3 block(x, kThreads / x);
  args.blocks_per_row = static_cast<uint32_t>((packs + x - 1) / x);
  const int64_t blocks = (args.rows + block.y - 1) / block.y * args.blocks_per_row;
  STD_TORCH_CHECK(blocks < int64_t{1} << 31 && (flat || args.rows < int64_t{1} << 32), call.op, ": the tensors are too large for one launch");
  const dim3 grid(static_cast<uint32_t>(blocks));
  if (aligned) {
    launch<T, wide, kBackward>(args, grid, block, stream);
  } else {
    launch<T, 1, kBackward>(args, grid, block, stream);
  }
}

template <bool kBackward>
void run(const Call& call, const GateArgs& args) {
  if (call.first.numel() == 0) return;
  const Element element = element_of(call.op, "value", call.first);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(call.first.get_device_index(), &stream));
  const auto on = static_cast<cudaStream_t>(stream);
  switch (element) {
    case Element::kFloat64: return run_typed<double, kBackward>(call, args, on);
    case Element::kBFloat16: return run_typed<__nv_bfloat16, kBackward>(call, args, on);
    case Element::kFloat16: return run_typed<__half, kBackward>(call, args, on);
    default: return run_typed<float, kBackward>(call, args, on);
  }
}

torch::stable::accelerator::DeviceGuard guard(const Tensor& tensor) {
  return torch::stable::accelerator::DeviceGuard(tensor.get_device_index());
}

void forward(const char* op, const Tensor& value, const Tensor& gate, int64_t activation, const Tensor& out) {
  Call call{op, value};
  GateArgs args{};
  args.out = call.add(out);
  STD_TORCH_CHECK(
      args.out.data == out.const_data_ptr(), op, ": out must lie in rows of a fixed distance, but has other strides");
  args.value = call.add(value);
  args.gate = call.add(gate);
  args.activation = static_cast<int32_t>(activation);
  run<false>(call, args);
}

Tensor gated_activation(const Tensor& value, const Tensor& gate, int64_t activation) {
  check_gate("gated_activation", value, {{"gate", gate}}, activation);
  const auto on_device = guard(value);
  Tensor out = dense_like(value);
  forward("gated_activation", value, gate, activation, out);
  return out;
}

void gated_activation_out(const Tensor& value, const Tensor& gate, int64_t activation, Tensor out) {
  check_gate("gated_activation_out", value, {{"gate", gate}, {"out", out}}, activation);
  check_out("gated_activation_out", out, {{"value", value}, {"gate", gate}});
  const auto on_device = guard(value);
  forward("gated_activation_out", value, gate, activation, out);
}

std::tuple<Tensor, Tensor> gated_activation_backward(
    const Tensor& grad, const Tensor& value, const Tensor& gate, int64_t activation) {
  check_gate("gated_activation_backward", value, {{"gate", gate}, {"grad", grad}}, activation);
  const auto on_device = guard(value);
  Tensor d_value = dense_like(value), d_gate = dense_like(gate);
  Call call{"gated_activation_backward", value};
  GateArgs args{};
  args.d_value = call.add(d_value);
  args.d_gate = call.add(d_gate);
  args.grad = call.add(grad);
  args.value = call.add(value);
  args.gate = call.add(gate);
  args.activation = static_cast<int32_t>(activation);
  run<true>(call, args);
  return {d_value, d_gate};
}

Tensor two_way_gate(
    const Tensor& y_forward, const Tensor& y_backward, const Tensor& z, int64_t activation, double scale) {
  check_two_way_gate("two_way_gate", y_forward, {{"y_backward", y_backward}, {"z", z}}, activation);
  const auto on_device = guard(y_forward);
  Tensor out = dense_like(y_forward);
  Call call{"two_way_gate", y_forward};
  GateArgs args{};
  args.out = call.add(out);
  args.value = call.add(y_forward);
  args.other = call.add(y_backward);
  args.gate = call.add(z);
  args.period = static_cast<uint32_t>(y_forward.size(1));
  args.scale = scale;
  args.activation = static_cast<int32_t>(activation);
  run<false>(call, args);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> two_way_gate_backward(
    const Tensor& grad, const Tensor& y_forward, const Tensor& y_backward, const Tensor& z, int64_t activation,
    double scale) {
  check_two_way_gate(
      "two_way_gate_backward", y_forward, {{"y_backward", y_backward}, {"z", z}, {"grad", grad}}, activation);
  const auto on_device = guard(y_forward);
  Tensor d_forward = dense_like(y_forward), d_backward = dense_like(y_forward), d_z = dense_like(y_forward);
  Call call{"two_way_gate_backward", y_forward};
  GateArgs args{};
  args.d_value = call.add(d_forward);
  args.d_other = call.add(d_backward);
  args.d_gate = call.add(d_z);
  args.grad = call.add(grad);
  args.value = call.add(y_forward);
  args.other = call.add(y_backward);
  args.gate = call.add(z);
  args.period = static_cast<uint32_t>(y_forward.size(1));
  args.scale = scale;
  args.activation = static_cast<int32_t>(activation);
  run<true>(call, args);
  return {d_forward, d_backward, d_z};
}

}  // namespace

}  // namespace hybridgen::cuda

HYBRIDGEN_INTERFACE

STABLE_TORCH_LIBRARY_IMPL(hybridgen_native, CUDA, m) {
  m.impl("gated_activation", TORCH_BOX(&hybridgen::cuda::gated_activation));
  m.impl("gated_activation_out", TORCH_BOX(&hybridgen::cuda::gated_activation_out));
  m.impl("gated_activation_backward", TORCH_BOX(&hybridgen::cuda::gated_activation_backward));
  m.impl("two_way_gate", TORCH_BOX(&hybridgen::cuda::two_way_gate));
  m.impl("two_way_gate_backward", TORCH_BOX(&hybridgen::cuda::two_way_gate_backward));
}
