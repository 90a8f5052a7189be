#include "selective_scan.h"

#include <numeric>
#include <tuple>

#include "tensors.h"

namespace hybridgen {

namespace {

using MaybeTensor = std::optional<Tensor>;

constexpr const char* kScan = "selective_scan";
constexpr const char* kBackward = "selective_scan_backward";
constexpr const char* kTwoWay = "selective_scan_two_way";
constexpr const char* kUpdate = "selective_state_update";

// The tensor itself if it is contiguous; asking is cheaper than a call of the operator.
Tensor dense(const Tensor& tensor) { return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor); }

// The inputs of a scan in the layouts that the kernels read; it holds the copies that this takes.
struct Inputs {
  Tensor u, dt, A, B, C;
  MaybeTensor D, z, dt_bias, initial_state, resets;

  Inputs(const char* op, const Tensor& u_, const Tensor& dt_, const Tensor& A_, const Tensor& B_, const Tensor& C_,
         const MaybeTensor& D_, const MaybeTensor& z_, const MaybeTensor& dt_bias_)
      : u(dense_rows(u_)), dt(dense_rows(dt_)), A(dense(A_)), B(dense_rows(B_)), C(dense_rows(C_)) {
    if (D_) D = dense(*D_);
    if (z_) z = dense_rows(*z_);
    if (dt_bias_) dt_bias = dense(*dt_bias_);
    STD_TORCH_CHECK(A.dim() == 2, op, ": A must have shape (D, N), but has ", shape_text(A));
    STD_TORCH_CHECK(A.size(1) >= 1 && A.size(1) <= 256, op, ": the state size must be 1 to 256, but is ", A.size(1));
    const int64_t channels = A.size(0), last = B.dim() - 2;
    STD_TORCH_CHECK(last >= 1 && B.size(last) >= 1 && channels % B.size(last) == 0, op,
                    ": B must have shape (B, T, G, N) with G a divisor of the ", channels, " channels, but has ",
                    shape_text(B));
    const auto type = u.scalar_type(), compute = compute_type(u);
    check_dtype(op, "dt", dt, type);
    check_dtype(op, "B", B, type);
    check_dtype(op, "C", C, type);
    check_dtype(op, "z", z, type);
    check_dtype(op, "A", A, compute);
    check_dtype(op, "D", D, compute);
    check_dtype(op, "dt_bias", dt_bias, compute);
    check_shape(op, "D", D, {channels});
    check_shape(op, "dt_bias", dt_bias, {channels});
  }

  void check_sequences(const char* op) const {
    STD_TORCH_CHECK(u.dim() == 3, op, ": u must have shape (B, T, D), but has ", shape_text(u));
    const int64_t batch = u.size(0), T = u.size(1), channels = A.size(0);
    check_shape(op, "u", u, {batch, T, channels});
    check_shape(op, "dt", dt, {batch, T, channels});
    check_shape(op, "z", z, {batch, T, channels});
    check_shape(op, "B", B, {batch, T, B.size(2), A.size(1)});
    check_shape(op, "C", C, {batch, T, B.size(2), A.size(1)});
  }

  void set_state(const char* op, const MaybeTensor& initial_state_, const MaybeTensor& resets_) {
    check_shape(op, "initial_state", initial_state_, {u.size(0), A.size(0), A.size(1)});
    check_dtype(op, "initial_state", initial_state_, compute_type(u));
    check_shape(op, "resets", resets_, {u.size(0), u.size(1)});
    check_dtype(op, "resets", resets_, ScalarType::Bool);
    if (initial_state_) initial_state = dense(*initial_state_);
    resets = resets_;
  }
};

// The sum over the first dimension.
Tensor total(const Tensor& parts) {
  const int64_t dim = 0;
  return parts.size(0) == 1 ? torch::stable::select(parts, 0, 0)
                            : torch::stable::sum(parts, torch::headeronly::IntHeaderOnlyArrayRef(&dim, 1));
}

const void* data(const MaybeTensor& tensor) { return tensor ? tensor->const_data_ptr() : nullptr; }

// A tensor (B, T, ...), from its last token on if the scan goes that way. The kernels write only what is theirs.
Sequence sequence(const Tensor& tensor, bool reverse) {
  char* start = static_cast<char*>(const_cast<void*>(tensor.const_data_ptr()));
  const int64_t T = tensor.size(1), time = tensor.stride(1), bytes = tensor.element_size();
  if (reverse && T > 0) start += (T - 1) * time * bytes;
  return {start, tensor.stride(0), reverse ? -time : time, tensor.dim() > 3 ? tensor.stride(2) : 0};
}

// Tasks per batch row and group: all threads shall have the same number of tasks, and few tasks share a B and C.
int64_t splits(int64_t wholes, int64_t group_channels) {
  const int64_t threads = torch::stable::get_num_threads(), most = (group_channels + 15) / 16;
  if (wholes == 0 || wholes >= 4 * threads) return 1;
  return std::max<int64_t>(1, std::min(most, threads / std::gcd(wholes, threads)));
}

SelectiveScan scan_arguments(const Inputs& in, int64_t activation, bool reverse) {
  SelectiveScan scan{};
  scan.u = sequence(in.u, reverse);
  scan.dt = sequence(in.dt, reverse);
  if (in.z) scan.z = sequence(*in.z, reverse);
  scan.B = sequence(in.B, reverse);
  scan.C = sequence(in.C, reverse);
  scan.A = in.A.const_data_ptr();
  scan.D = data(in.D);
  scan.dt_bias = data(in.dt_bias);
  scan.initial_state = data(in.initial_state);
  scan.batch = in.u.size(0);
  scan.T = in.u.size(1);
  scan.channels = in.A.size(0);
  scan.groups = in.B.size(2);
  scan.N = in.A.size(1);
  scan.splits = splits(scan.batch * scan.groups, scan.channels / scan.groups);
  scan.element = element_of(kScan, "u", in.u);
  scan.activation = static_cast<int32_t>(activation);
  scan.reverse = reverse;
  if (in.resets) {
    scan.resets = sequence(*in.resets, reverse);
    // Between tokens t and t + 1 the boundary is the mark of t + 1, also on the way back.
    if (reverse) scan.resets.data = static_cast<char*>(scan.resets.data) - scan.resets.time;
  }
  return scan;
}

// Tasks per thread: a second thread costs as much as some ten thousand states.
int64_t task_grain(const SelectiveScan& scan) {
  return grain(scan.T * scan.N * (scan.channels / (scan.groups * scan.splits)));
}

std::tuple<Tensor, Tensor, Tensor> selective_scan(
    const Tensor& u, const Tensor& dt, const Tensor& A, const Tensor& B, const Tensor& C, const MaybeTensor& D,
    const MaybeTensor& z, const MaybeTensor& dt_bias, int64_t activation, const MaybeTensor& initial_state,
    const MaybeTensor& resets, bool reverse, bool keep_states) {
  Inputs in(kScan, u, dt, A, B, C, D, z, dt_bias);
  in.check_sequences(kScan);
  check_activation(kScan, activation);
  in.set_state(kScan, initial_state, resets);
  SelectiveScan scan = scan_arguments(in, activation, reverse);
  const ScalarType compute = compute_type(u);
  const int64_t chunks = keep_states ? (scan.T + kScanChunk - 1) / kScanChunk : 0;
  Tensor y = empty_like(u, {scan.batch, scan.T, scan.channels});
  Tensor final_state = empty_like(u, {scan.batch, scan.channels, scan.N}, compute);
  Tensor kept = empty_like(u, {chunks, scan.batch, scan.N, scan.channels}, compute);
  scan.y = sequence(y, reverse);
  scan.final_state = final_state.mutable_data_ptr();
  scan.kept = chunks ? kept.mutable_data_ptr() : nullptr;
  torch::stable::parallel_for(0, scan.batch * scan.groups * scan.splits, task_grain(scan), [&](int64_t first, int64_t last) {
    best::selective_scan_forward(scan, first, last);
  });
  return {y, final_state, kept};
}

// One direction of a two-way scan, as the kernels read it; it holds the copies that this takes.
struct Direction {
  Tensor u, dt, dt_weight, dt_bias, A_log, B, C, D;

  explicit Direction(const std::vector<Tensor>& given)
      : u(dense_rows(given[0])), dt(dense_rows(given[1])), dt_weight(dense(given[2])), dt_bias(dense(given[3])),
        A_log(dense(given[4])), B(dense_rows(given[5])), C(dense_rows(given[6])), D(dense(given[7])) {}

  void check(int64_t batch, int64_t T, int64_t channels, ScalarType type) const {
    STD_TORCH_CHECK(dt.dim() == 3 && dt.size(2) >= 1, kTwoWay, ": dt must have shape (B, T, R), but has ",
                    shape_text(dt));
    STD_TORCH_CHECK(A_log.dim() == 2 && A_log.size(1) >= 1 && A_log.size(1) <= 256, kTwoWay,
                    ": A_log must have shape (D, N) with N from 1 to 256, but has ", shape_text(A_log));
    const int64_t N = A_log.size(1), rank = dt.size(2);
    const ScalarType compute = compute_type(u);
    const auto expect = [](const char* name, const Tensor& given, std::initializer_list<int64_t> shape, ScalarType dtype) {
      check_shape(kTwoWay, name, given, shape);
      check_dtype(kTwoWay, name, given, dtype);
    };
    expect("u", u, {batch, T, channels}, type);
    expect("dt", dt, {batch, T, rank}, type);
    expect("dt_weight", dt_weight, {channels, rank}, type);
    expect("dt_bias", dt_bias, {channels}, compute);
    expect("A_log", A_log, {channels, N}, compute);
    expect("B", B, {batch, T, N}, type);
    expect("C", C, {batch, T, N}, type);
    expect("D", D, {channels}, compute);
  }

  SelectiveScan arguments(bool reverse) const {
    SelectiveScan scan{};
    scan.u = sequence(u, reverse);
    scan.dt = sequence(dt, reverse);
    scan.B = sequence(B, reverse);
    scan.C = sequence(C, reverse);
    scan.A = A_log.const_data_ptr();
    scan.A_is_log = true;
    scan.D = D.const_data_ptr();
    scan.dt_bias = dt_bias.const_data_ptr();
    scan.dt_weight = dt_weight.const_data_ptr();
    scan.dt_rank = dt.size(2);
    scan.batch = u.size(0);
    scan.T = u.size(1);
    scan.channels = u.size(2);
    scan.groups = 1;
    scan.N = A_log.size(1);
    scan.splits = splits(scan.batch, scan.channels);
    scan.element = element_of(kTwoWay, "u", u);
    scan.reverse = reverse;
    return scan;
  }
};

Tensor selective_scan_two_way(
    std::vector<Tensor> there, std::vector<Tensor> back, const Tensor& z, int64_t activation, double scale) {
  STD_TORCH_CHECK(there.size() == 8 && back.size() == 8, kTwoWay,
                  ": each direction is u, dt, dt_weight, dt_bias, A_log, B, C and D");
  check_activation(kTwoWay, activation);
  STD_TORCH_CHECK(z.dim() == 3, kTwoWay, ": z must have shape (B, T, D), but has ", shape_text(z));
  const Tensor gate = dense_rows(z);
  const int64_t batch = z.size(0), T = z.size(1), channels = z.size(2);
  const Direction first(there), second(back);
  first.check(batch, T, channels, z.scalar_type());
  second.check(batch, T, channels, z.scalar_type());
  Tensor y = empty_like(z, {batch, T, channels});
  SelectiveScan forwards = first.arguments(false), backwards = second.arguments(true);
  forwards.y = sequence(y, false);
  // On the way back each task finds what it wrote itself on the way there.
  backwards.y = backwards.added = sequence(y, true);
  backwards.z = sequence(gate, true);
  backwards.scale = scale;
  backwards.activation = static_cast<int32_t>(activation);
  const int64_t tasks = channels ? forwards.batch * forwards.splits : 0;
  torch::stable::parallel_for(0, tasks, task_grain(forwards), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      best::selective_scan_forward(forwards, task, task + 1);
      best::selective_scan_forward(backwards, task, task + 1);
    }
  });
  return y;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Gradients selective_scan_backward(
    const Tensor& u, const Tensor& dt, const Tensor& A, const Tensor& B, const Tensor& C, const MaybeTensor& D,
    const MaybeTensor& z, const MaybeTensor& dt_bias, int64_t activation, const MaybeTensor& initial_state,
    const MaybeTensor& resets, bool reverse, const Tensor& kept, const Tensor& grad_y, const MaybeTensor& grad_final) {
  Inputs in(kBackward, u, dt, A, B, C, D, z, dt_bias);
  in.check_sequences(kBackward);
  check_activation(kBackward, activation);
  in.set_state(kBackward, initial_state, resets);
  SelectiveScanBackward args{};
  SelectiveScan& scan = args.scan = scan_arguments(in, activation, reverse);
  const int64_t batch = scan.batch, T = scan.T, channels = scan.channels, N = scan.N;
  const ScalarType compute = compute_type(u);
  check_shape(kBackward, "kept", kept, {(T + kScanChunk - 1) / kScanChunk, batch, N, channels});
  check_dtype(kBackward, "kept", kept, compute);
  check_shape(kBackward, "grad_y", grad_y, {batch, T, channels});
  check_dtype(kBackward, "grad_y", grad_y, u.scalar_type());
  check_shape(kBackward, "grad_final", grad_final, {batch, channels, N});
  check_dtype(kBackward, "grad_final", grad_final, compute);
  const Tensor grads = dense_rows(grad_y), states = dense(kept);
  MaybeTensor finals;
  if (grad_final) finals = dense(*grad_final);
  scan.kept = const_cast<void*>(states.const_data_ptr());
  args.grad_y = sequence(grads, reverse);
  args.grad_final = data(finals);

  const auto none = [&] { return empty_like(u, {0}, compute); };
  const Tensor du = empty_like(u, {batch, T, channels}), ddt = empty_like(u, {batch, T, channels});
  const Tensor dz = z ? empty_like(u, {batch, T, channels}) : empty_like(u, {0});
  args.grad_u = sequence(du, reverse);
  args.grad_dt = sequence(ddt, reverse);
  if (z) args.grad_z = sequence(dz, reverse);
  Tensor dinitial = empty_like(u, {batch, channels, N}, compute), dA = empty_like(u, {batch, N, channels}, compute);
  Tensor dD = empty_like(u, {batch, channels}, compute), dbias = empty_like(u, {batch, channels}, compute);
  // One part of B's and C's gradients per task that shares them: the order of their sum is fixed.
  const Tensor dB = empty_like(u, {scan.splits * batch, T, scan.groups, N}, compute);
  const Tensor dC = empty_like(u, {scan.splits * batch, T, scan.groups, N}, compute);
  args.grad_B = sequence(dB, reverse);
  args.grad_C = sequence(dC, reverse);
  args.grad_initial = dinitial.mutable_data_ptr();
  args.grad_A = dA.mutable_data_ptr();
  args.grad_D = dD.mutable_data_ptr();
  args.grad_bias = dbias.mutable_data_ptr();
  torch::stable::parallel_for(0, batch * scan.groups * scan.splits, task_grain(scan), [&](int64_t first, int64_t last) {
    best::selective_scan_backward(args, first, last);
  });
  const auto whole = [&](const Tensor& parts) {
    const Tensor split = torch::stable::view(parts, {scan.splits, batch, T, scan.groups, N});
    return torch::stable::to(total(split), u.scalar_type());
  };
  return {du, ddt, torch::stable::contiguous(torch::stable::transpose(total(dA), 0, 1)), whole(dB), whole(dC),
          D ? total(dD) : none(), dz, dt_bias ? total(dbias) : none(), initial_state ? dinitial : none()};
}

Tensor selective_state_update(
    Tensor state, const Tensor& u, const Tensor& dt, const Tensor& A, const Tensor& B, const Tensor& C,
    const MaybeTensor& D, const MaybeTensor& z, const MaybeTensor& dt_bias, int64_t activation) {
  const Inputs in(kUpdate, u, dt, A, B, C, D, z, dt_bias);
  check_activation(kUpdate, activation);
  STD_TORCH_CHECK(u.dim() == 2 && B.dim() == 3, kUpdate, ": u must have shape (B, D) and B (B, G, N), but they have ",
                  shape_text(u), " and ", shape_text(B));
  const int64_t batch = u.size(0), channels = A.size(0), N = A.size(1), groups = B.size(1);
  check_shape(kUpdate, "u", u, {batch, channels});
  check_shape(kUpdate, "dt", dt, {batch, channels});
  check_shape(kUpdate, "z", z, {batch, channels});
  check_shape(kUpdate, "B", B, {batch, groups, N});
  check_shape(kUpdate, "C", C, {batch, groups, N});
  check_shape(kUpdate, "state", state, {batch, channels, N});
  check_dtype(kUpdate, "state", state, compute_type(u));
  check_writable(kUpdate, "state", state);
  // The kernel works on a dense state; another one is copied there and back.
  Tensor advanced = dense(state);
  Tensor y = empty_like(u, {batch, channels});
  const auto rows = [](const Tensor& tensor) {
    return Sequence{const_cast<void*>(tensor.const_data_ptr()), tensor.stride(0), 0,
                    tensor.dim() > 2 ? tensor.stride(1) : 0};
  };
  const SelectiveUpdate args{
      rows(in.u), rows(in.dt), in.z ? rows(*in.z) : Sequence{}, rows(in.B), rows(in.C), rows(y),
      in.A.const_data_ptr(), data(in.D), data(in.dt_bias), advanced.mutable_data_ptr(), channels, groups, N,
      element_of(kUpdate, "u", u), static_cast<int32_t>(activation)};
  const int64_t items = batch * ((channels + kUpdateBlock - 1) / kUpdateBlock);
  // A second thread costs as much as some ten thousand states.
  torch::stable::parallel_for(0, items, 32768 / (kUpdateBlock * N) + 1, [&](int64_t first, int64_t last) {
    best::selective_state_update(args, first, last);
  });
  if (!state.is_contiguous()) torch::stable::copy_(state, advanced);
  return y;
}

}  // namespace

}  // namespace hybridgen

STABLE_TORCH_LIBRARY_IMPL(hybridgen_native, CPU, m) {
  m.impl("selective_scan", TORCH_BOX(&hybridgen::selective_scan));
  m.impl("selective_scan_backward", TORCH_BOX(&hybridgen::selective_scan_backward));
  m.impl("selective_scan_two_way", TORCH_BOX(&hybridgen::selective_scan_two_way));
  m.impl("selective_state_update", TORCH_BOX(&hybridgen::selective_state_update));
}
