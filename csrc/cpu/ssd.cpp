#include "ssd.h"

#include <tuple>

#include "tensors.h"

namespace hybridgen {

namespace {

const void* data(const std::optional<Tensor>& tensor) { return tensor ? tensor->const_data_ptr() : nullptr; }

// The arguments that all three operators share, checked. The tensors that the pointers lead to live as long as this.
struct Checked {
  Tensor x, dt, A, B, C;
  std::optional<Tensor> D, dt_bias, initial_state, resets;
  SsdInputs in{};

  Checked(
      const char* op, const Tensor& given_x, const Tensor& given_dt, const Tensor& given_A, const Tensor& given_B,
      const Tensor& given_C, const std::optional<Tensor>& given_D, const std::optional<Tensor>& given_bias,
      double dt_min, double dt_max)
      : x(dense_rows(given_x)), dt(given_dt), A(torch::stable::contiguous(given_A)), B(dense_rows(given_B)),
        C(dense_rows(given_C)) {
    const ScalarType type = compute_type(x);
    in.element = element_of(op, "x", x);
    in.dt_element = element_of(op, "dt", dt);
    check_dtype(op, "B", B, x.scalar_type());
    check_dtype(op, "C", C, x.scalar_type());
    check_dtype(op, "A", A, type);
    check_dtype(op, "D", given_D, type);
    check_dtype(op, "dt_bias", given_bias, type);
    if (given_D) D = torch::stable::contiguous(*given_D);
    if (given_bias) dt_bias = torch::stable::contiguous(*given_bias);
    in.dt_min = dt_min;
    in.dt_max = dt_max;
    in.x = x.const_data_ptr();
    in.dt = dt.const_data_ptr();
    in.A = A.const_data_ptr();
    in.B = B.const_data_ptr();
    in.C = C.const_data_ptr();
    in.D = data(D);
    in.dt_bias = data(dt_bias);
  }

  // x (batch, [T,] H, P), and so on; `time` is 1 with a time dimension, else 0.
  void sizes(const char* op, int time) {
    STD_TORCH_CHECK(x.dim() == 3 + time && B.dim() == 3 + time, op, ": x and B must have ", 3 + time,
                    " dimensions, but have shapes ", shape_text(x), " and ", shape_text(B));
    in.batch = x.size(0);
    in.T = time ? x.size(1) : 1;
    in.H = x.size(1 + time);
    in.P = x.size(2 + time);
    in.G = B.size(1 + time);
    in.N = B.size(2 + time);
    if (time) {
      check_shape(op, "dt", dt, {in.batch, in.T, in.H});
      check_shape(op, "B", B, {in.batch, in.T, in.G, in.N});
      check_shape(op, "C", C, {in.batch, in.T, in.G, in.N});
    } else {
      check_shape(op, "dt", dt, {in.batch, in.H});
      check_shape(op, "B", B, {in.batch, in.G, in.N});
      check_shape(op, "C", C, {in.batch, in.G, in.N});
    }
    check_shape(op, "A", A, {in.H});
    check_shape(op, "dt_bias", dt_bias, {in.H});
    STD_TORCH_CHECK(in.G > 0 && in.H % in.G == 0, op, ": B and C have ", in.G, " groups, which must divide the ", in.H,
                    " heads");
    if (D && D->dim() == 2) {
      check_shape(op, "D", D, {in.H, in.P});
    } else {
      check_shape(op, "D", D, {in.H});
    }
    in.D_head = D && D->dim() == 2 ? in.P : 1;
    in.D_channel = D && D->dim() == 2 ? 1 : 0;
    in.x_batch = x.stride(0), in.x_time = time ? x.stride(1) : 0, in.x_head = x.stride(1 + time);
    in.dt_batch = dt.stride(0), in.dt_time = time ? dt.stride(1) : 0, in.dt_head = dt.stride(1 + time);
    in.B_batch = B.stride(0), in.B_time = time ? B.stride(1) : 0, in.B_group = B.stride(1 + time);
    in.C_batch = C.stride(0), in.C_time = time ? C.stride(1) : 0, in.C_group = C.stride(1 + time);
  }

  void set_boundaries(const char* op, const std::optional<Tensor>& state, const std::optional<Tensor>& given) {
    if (state) {
      check_shape(op, "initial_state", *state, {in.batch, in.H, in.P, in.N});
      check_dtype(op, "initial_state", *state, compute_type(x));
      initial_state = torch::stable::contiguous(*state);
      in.initial_state = data(initial_state);
    }
    in.chunks = kSsdSegment / kSsdChunk;
    if (!given) return;
    resets = given;
    check_shape(op, "resets", *given, {in.batch, in.T});
    check_dtype(op, "resets", *given, ScalarType::Bool);
    in.resets = static_cast<const uint8_t*>(given->const_data_ptr());
    in.resets_batch = given->stride(0), in.resets_time = given->stride(1);
    for (int64_t row = 0; row < in.batch; ++row) {
      int64_t count = 0;
      for (int64_t t = 0; t < in.T; ++t) {
        if (t % kSsdSegment == 0) count = 0;
        count += t % kSsdChunk == 0 || in.resets[row * in.resets_batch + t * in.resets_time];
        if (count > in.chunks) in.chunks = count;
      }
    }
  }

  // Every group is one job, unless that leaves threads idle.
  void share_out() {
    const int64_t threads = torch::stable::get_num_threads(), groups = in.batch * in.G, heads = in.H / in.G;
    in.slices = 1;
    while (in.slices < threads && in.slices < heads && groups * in.slices % threads != 0) ++in.slices;
  }
  int64_t jobs() const { return in.batch * in.G * in.slices; }
  int64_t task_grain() const { return grain(in.T * in.N * in.P * in.H / (in.G * in.slices)); }
};

std::tuple<Tensor, Tensor, Tensor> ssd_scan(
    const Tensor& x, const Tensor& dt, const Tensor& A, const Tensor& B, const Tensor& C, std::optional<Tensor> D,
    std::optional<Tensor> dt_bias, double dt_min, double dt_max, std::optional<Tensor> initial_state,
    std::optional<Tensor> resets, bool keep_states) {
  const char* op = "ssd_scan";
  Checked given(op, x, dt, A, B, C, D, dt_bias, dt_min, dt_max);
  given.sizes(op, 1);
  given.set_boundaries(op, initial_state, resets);
  given.share_out();
  const SsdInputs& in = given.in;
  const ScalarType type = compute_type(x);
  const int64_t segments = keep_states ? (in.T + kSsdSegment - 1) / kSsdSegment : 0, jobs = given.jobs();
  Tensor y = empty_like(x, {in.batch, in.T, in.H, in.P});
  Tensor final_state = empty_like(x, {in.batch, in.H, in.P, in.N}, type);
  Tensor kept = empty_like(x, {in.batch, segments, in.H, in.N, in.P}, type);
  const int64_t size = (ssd_forward_scratch(in.N, in.P, in.chunks) + 15) / 16 * 16;
  Tensor scratch = empty_like(x, {jobs * size}, type);
  const SsdForward args{
      in, y.mutable_data_ptr(), final_state.mutable_data_ptr(), keep_states ? kept.mutable_data_ptr() : nullptr,
      scratch.mutable_data_ptr(), size};
  torch::stable::parallel_for(0, jobs, given.task_grain(), [&](int64_t first, int64_t last) { best::ssd_forward(args, first, last); });
  return {y, final_state, kept};
}

// dB or dC in the dtype of B from what the slices found.
Tensor sum_slices(const Tensor& parts, const Tensor& like, const SsdInputs& in) {
  Tensor out = empty_like(like, {in.batch, in.T, in.G, in.N});
  const SsdSum args{
      out.mutable_data_ptr(), parts.const_data_ptr(), in.slices, in.batch * in.T * in.G * in.N, in.element};
  torch::stable::parallel_for(0, args.count, 16384, [&](int64_t first, int64_t last) {
    best::ssd_sum_slices(args, first, last);
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> ssd_scan_backward(
    const Tensor& x, const Tensor& dt, const Tensor& A, const Tensor& B, const Tensor& C, std::optional<Tensor> D,
    std::optional<Tensor> dt_bias, double dt_min, double dt_max, std::optional<Tensor> initial_state,
    std::optional<Tensor> resets, const Tensor& given_kept, const Tensor& given_dy,
    std::optional<Tensor> dfinal) {
  const char* op = "ssd_scan_backward";
  Checked given(op, x, dt, A, B, C, D, dt_bias, dt_min, dt_max);
  given.sizes(op, 1);
  given.set_boundaries(op, initial_state, resets);
  given.share_out();
  const SsdInputs& in = given.in;
  const ScalarType type = compute_type(x);
  const int64_t segments = (in.T + kSsdSegment - 1) / kSsdSegment, jobs = given.jobs();
  check_shape(op, "kept", given_kept, {in.batch, segments, in.H, in.N, in.P});
  check_dtype(op, "kept", given_kept, type);
  check_shape(op, "dy", given_dy, {in.batch, in.T, in.H, in.P});
  check_dtype(op, "dy", given_dy, x.scalar_type());
  check_shape(op, "dfinal", dfinal, {in.batch, in.H, in.P, in.N});
  check_dtype(op, "dfinal", dfinal, type);
  const Tensor kept = torch::stable::contiguous(given_kept), dy = dense_rows(given_dy);
  if (dfinal) dfinal = torch::stable::contiguous(*dfinal);

  Tensor dx = empty_like(x, {in.batch, in.T, in.H, in.P}), ddt = empty_like(x, {in.batch, in.T, in.H}, type);
  Tensor dA = empty_like(x, {in.batch, in.H}, type), dD = empty_like(x, {in.batch, in.H, in.P}, type);
  Tensor dB = empty_like(x, {in.slices, in.batch, in.T, in.G, in.N}, type);
  Tensor dC = empty_like(x, {in.slices, in.batch, in.T, in.G, in.N}, type);
  if (in.H == 0) {
    // No head writes its part.
    torch::stable::zero_(dB);
    torch::stable::zero_(dC);
  }
  Tensor dinitial = empty_like(x, {in.batch, in.H, in.P, in.N}, type);
  const int64_t size = (ssd_backward_scratch(in.N, in.P, in.chunks) + 15) / 16 * 16;
  Tensor scratch = empty_like(x, {jobs * size}, type);
  const SsdBackward args{
      in, kept.const_data_ptr(), dy.const_data_ptr(), data(dfinal),
      dy.stride(0), dy.stride(1), dy.stride(2),
      dx.mutable_data_ptr(), ddt.mutable_data_ptr(), dA.mutable_data_ptr(), dB.mutable_data_ptr(),
      dC.mutable_data_ptr(), dD.mutable_data_ptr(), dinitial.mutable_data_ptr(), scratch.mutable_data_ptr(), size};
  torch::stable::parallel_for(0, jobs, given.task_grain(), [&](int64_t first, int64_t last) { best::ssd_backward(args, first, last); });
  return {dx, ddt, dA, sum_slices(dB, B, in), sum_slices(dC, C, in), dD, dinitial};
}

Tensor ssd_update(
    Tensor state, const Tensor& x, const Tensor& dt, const Tensor& A, const Tensor& B, const Tensor& C,
    std::optional<Tensor> D, std::optional<Tensor> dt_bias, double dt_min, double dt_max) {
  const char* op = "ssd_update";
  Checked given(op, x, dt, A, B, C, D, dt_bias, dt_min, dt_max);
  given.sizes(op, 0);
  const SsdInputs& in = given.in;
  check_shape(op, "state", state, {in.batch, in.H, in.P, in.N});
  check_dtype(op, "state", state, compute_type(x));
  check_writable(op, "state", state);
  STD_TORCH_CHECK(in.N <= 1 || state.stride(3) == 1, op, ": the last dimension of state must be dense");
  Tensor y = empty_like(x, {in.batch, in.H, in.P});
  const SsdUpdate args{
      in, y.mutable_data_ptr(), state.mutable_data_ptr(), state.stride(0), state.stride(1), state.stride(2)};
  torch::stable::parallel_for(0, in.batch * in.H, grain(4 * in.P * in.N), [&](int64_t first, int64_t last) {
    best::ssd_update(args, first, last);
  });
  return y;
}

}  // namespace

}  // namespace hybridgen

STABLE_TORCH_LIBRARY_IMPL(hybridgen_native, CPU, m) {
  m.impl("ssd_scan", TORCH_BOX(&hybridgen::ssd_scan));
  m.impl("ssd_scan_backward", TORCH_BOX(&hybridgen::ssd_scan_backward));
  m.impl("ssd_update", TORCH_BOX(&hybridgen::ssd_update));
}
