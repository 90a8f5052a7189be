#include <numeric>

#include "selective_arguments.h"

namespace hybridgen {

namespace {

std::vector<void*> pointers(const std::vector<Tensor>& tensors, size_t first, size_t count) {
  std::vector<void*> found;
  for (size_t i = first; i < first + count; ++i) found.push_back(tensors[i].mutable_data_ptr());
  return found;
}

// Runs the three steps. Rows of the batch are shared out as they are if there are enough of them for all threads;
// otherwise each row is split into slices of its keys.
void go_back(SelectBackward& args, const Tensor& like) {
  const SelectInputs& in = args.in;
  const int64_t threads = useful_threads(in), blocks = in.blocks();
  const int64_t tiles = (in.S + kSelectBlock - 1) / kSelectBlock;
  args.slices = in.batch >= threads ? 1 : std::min(threads, tiles);
  const int64_t workers = args.slices == 1 ? std::min(threads, in.batch) : args.slices;
  args.part_size = select_backward_part(blocks, in.H, in.depth, in.chooser_depth);
  args.scratch_size = select_backward_scratch(
      args.slots(), in.depth, in.v.heads, in.v.width, in.chooser_count, in.chooser_depth) + 16;
  Tensor parts = empty_like(like, {workers * args.part_size});
  Tensor scratch = empty_like(like, {workers * args.scratch_size});
  args.parts = parts.mutable_data_ptr(), args.scratch = scratch.mutable_data_ptr();
  share_jobs(in.batch * in.H * blocks, threads, [&](int64_t, int64_t job) {
    best::select_backward_start(args, job / blocks / in.H, job / blocks % in.H, job % blocks);
  });
  const int64_t heads = in.H + (in.chooser_count > 0), ends = heads * blocks;
  if (args.slices == 1) {
    share_jobs(in.batch, workers, [&](int64_t worker, int64_t row) {
      best::select_backward(args, worker, row, 0);
      for (int64_t i = 0; i < ends; ++i) best::select_backward_end(args, worker, row, i / blocks, i % blocks);
    });
  } else {
    for (int64_t row = 0; row < in.batch; ++row) {
      share_jobs(args.slices, workers, [&](int64_t, int64_t slice) { best::select_backward(args, slice, row, slice); });
      share_jobs(ends, threads, [&](int64_t, int64_t i) {
        best::select_backward_end(args, 0, row, i / blocks, i % blocks);
      });
    }
  }
  if (args.dsinks) {
    torch::stable::parallel_for(0, in.H, grain(in.batch * in.T), [&](int64_t first, int64_t last) {
      best::select_backward_sinks(args, first, last);
    });
  }
}

std::vector<Tensor> selective_attention_backward(
    std::vector<Tensor> q, std::vector<Tensor> k, const Tensor& v, std::optional<Tensor> sinks,
    std::optional<Tensor> starts, std::optional<Tensor> slopes, std::optional<Tensor> until,
    std::vector<Tensor> chooser_q, std::vector<Tensor> chooser_k, double scale, std::optional<int64_t> selection_head,
    bool protect_bos, std::optional<int64_t> window, std::optional<double> softcap, bool causal, bool over_time,
    const Tensor& given_y, const Tensor& given_sums, const Tensor& given_kept, const Tensor& given_dy,
    const Tensor& given_dafter) {
  const char* op = "selective_attention_backward";
  const SelectArguments given(
      op, q, k, v, sinks, std::nullopt, starts, slopes, until, chooser_q, chooser_k,
      {scale, selection_head, protect_bos, window, softcap, causal, over_time});
  const SelectInputs& in = given.in;
  const ScalarType type = compute_type(v);
  const bool adds_up = in.chooses() && in.over_time;
  check_shape(op, "y", given_y, {in.batch, in.H, in.T, in.v.width});
  check_shape(op, "dy", given_dy, {in.batch, in.H, in.T, in.v.width});
  check_dtype(op, "y", given_y, v.scalar_type());
  check_dtype(op, "dy", given_dy, v.scalar_type());
  check_shape(op, "sums", given_sums, {in.batch, in.H, in.T});
  check_shape(op, "dF", given_dafter, {in.batch, in.S});
  check_dtype(op, "sums", given_sums, type);
  check_dtype(op, "dF", given_dafter, type);
  if (adds_up) check_shape(op, "kept", given_kept, {in.batch, in.blocks(), in.S});
  if (adds_up) check_dtype(op, "kept", given_kept, type);
  const Tensor y = torch::stable::contiguous(given_y), dy = dense_rows(given_dy);
  const Tensor sums = torch::stable::contiguous(given_sums), kept = torch::stable::contiguous(given_kept);
  Tensor dafter = torch::stable::contiguous(given_dafter);

  std::vector<Tensor> out;
  for (const std::vector<Tensor>* list : {&q, &k, &chooser_q, &chooser_k}) {
    for (const Tensor& one : *list) out.push_back(empty_like(one, {one.sizes().begin(), one.sizes().end()}));
  }
  const std::vector<void*> dq = pointers(out, 0, q.size()), dk = pointers(out, q.size(), q.size());
  const std::vector<void*> dchooser_q = pointers(out, 2 * q.size(), chooser_q.size());
  const std::vector<void*> dchooser_k = pointers(out, 2 * q.size() + chooser_q.size(), chooser_q.size());
  Tensor dv = empty_like(v, {in.batch, in.v.heads, in.S, in.v.width});
  Tensor dsinks = empty_like(sums, {sinks ? in.H : 0}), dhidden = empty_like(sums, {in.batch, in.S - in.T});
  out.insert(out.end(), {dv, dsinks, dhidden});
  if (in.batch == 0 || in.T == 0 || in.H == 0) {
    for (Tensor& one : out) torch::stable::zero_(one);
    if (dhidden.numel()) torch::stable::copy_(dhidden, torch::stable::narrow(dafter, 1, 0, in.S - in.T));
    return out;
  }
  int64_t shared = in.H;
  for (const SelectPair& pair : given.pairs) shared = std::gcd(shared, in.H / pair.k.heads);
  const int64_t rows = in.batch * in.blocks() * kSelectBlock;
  Tensor queries = empty_like(sums, {rows * in.H * in.depth}), dys = empty_like(sums, {rows * in.H * in.v.width});
  Tensor chooser_queries = empty_like(sums, {rows * in.chooser_depth});
  Tensor logs = empty_like(sums, {rows * in.H}), inner = empty_like(sums, {rows * in.H});
  SelectBackward args{
      in, y.const_data_ptr(), sums.const_data_ptr(), adds_up ? kept.const_data_ptr() : nullptr, dafter.const_data_ptr(),
      {dy.const_data_ptr(), dy.stride(0), dy.stride(1), dy.stride(2), in.H, in.v.width, in.element},
      queries.mutable_data_ptr(), dys.mutable_data_ptr(), chooser_queries.mutable_data_ptr(), logs.mutable_data_ptr(),
      inner.mutable_data_ptr(), nullptr, nullptr, 0, 0, 1, shared, dq.data(), dk.data(), dchooser_q.data(),
      dchooser_k.data(), dv.mutable_data_ptr(), sinks ? dsinks.mutable_data_ptr() : nullptr,
      dhidden.mutable_data_ptr()};
  go_back(args, sums);
  return out;
}

}  // namespace

}  // namespace hybridgen

STABLE_TORCH_LIBRARY_IMPL(hybridgen_native, CPU, m) {
  m.impl("selective_attention_backward", TORCH_BOX(&hybridgen::selective_attention_backward));
}
