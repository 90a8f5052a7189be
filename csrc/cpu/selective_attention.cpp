#include "selective_attention.h"

#include <tuple>

#include "selective_arguments.h"

namespace hybridgen {

namespace {

// The bytes of queries and outputs in scratch memory that a job may use: more heads at once share the selection head's
// scores, fewer leave room in the second level of the cache.
constexpr int64_t kRoom = 512 << 10;

int64_t heads_per_job(const SelectInputs& in, int64_t threads, int64_t size) {
  const int64_t per_head = kSelectBlock * (in.depth + select_padded(in.v.width)) * size;
  int64_t heads = std::max<int64_t>(1, std::min(in.H, kRoom / std::max<int64_t>(per_head, 1)));
  // Few blocks: all threads have something to do only if the heads are split.
  while (heads > 1 && in.batch * in.blocks() * ((in.H + heads - 1) / heads) < 2 * threads) heads = (heads + 1) / 2;
  return heads;
}

// F at each block's start into `before`, and after the last into `after`.
void sum_hidden(const SelectInputs& in, const std::optional<Tensor>& before, Tensor& after, int64_t threads) {
  void* sums = before ? before->mutable_data_ptr() : nullptr;
  if (sums) {
    const int64_t size = select_sums_scratch(in.depth, in.chooser_depth) + 16;
    const int64_t spans = (in.S + kSelectSpan - 1) / kSelectSpan, jobs = in.batch * in.blocks() * spans;
    const int64_t workers = std::min(threads, jobs);
    Tensor scratch = empty_like(after, {workers * size});
    const SelectSums args{in, sums, scratch.mutable_data_ptr(), size, spans};
    share_jobs(jobs, workers, [&](int64_t worker, int64_t job) { best::select_sums(args, worker, job); });
  }
  const SelectPrefix args{in, sums, after.mutable_data_ptr()};
  const int64_t spans = (in.S + kSelectSpan - 1) / kSelectSpan;
  torch::stable::parallel_for(0, in.batch * spans, sums && threads > 1 ? 1 : 16, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t key = i % spans * kSelectSpan;
      best::select_prefix(args, i / spans, key, std::min(key + kSelectSpan, in.S));
    }
  });
}

// One query per row, nothing kept.
void attend_one(const SelectInputs& in, Tensor& y, Tensor& after, int64_t threads) {
  const int64_t spans = (in.S + kSelectStep - 1) / kSelectStep, jobs = in.batch * spans;
  const int64_t workers = std::min(threads, jobs);
  const int64_t size = select_step_scratch(in.H, in.depth, in.chooser_depth);
  Tensor parts = empty_like(after, {in.batch * spans * in.H * (in.v.width + 2)});
  Tensor scratch = empty_like(after, {workers * size});
  const SelectStep args{in, y.mutable_data_ptr(), after.mutable_data_ptr(), parts.mutable_data_ptr(),
                        scratch.mutable_data_ptr(), size, spans};
  share_jobs(jobs, workers, [&](int64_t worker, int64_t job) { best::select_step(args, worker, job); });
  torch::stable::parallel_for(0, in.batch * in.H, grain(spans * in.v.width), [&](int64_t first, int64_t last) {
    best::select_step_end(args, first, last);
  });
}

// What both operators do: y, F of all keys, the logarithms of the sums and F at the blocks, empty unless they are kept.
std::tuple<Tensor, Tensor, Tensor, Tensor> attend(const SelectInputs& in, const Tensor& v, bool keep) {
  const ScalarType type = compute_type(v);
  Tensor y = empty_like(v, {in.batch, in.H, in.T, in.v.width}), after = empty_like(v, {in.batch, in.S}, type);
  Tensor sums = keep ? empty_like(v, {in.batch, in.H, in.T}, type) : empty_like(v, {0}, type);
  const int64_t threads = useful_threads(in);
  std::optional<Tensor> before;
  if (in.T == 1 && in.causal && !keep && in.batch && in.H) {
    attend_one(in, y, after, threads);
    return {y, after, sums, empty_like(v, {0}, type)};
  }
  if (in.chooses() && in.over_time) before = empty_like(v, {in.batch, in.blocks(), in.S}, type);
  if (in.batch && in.S) sum_hidden(in, before, after, threads);
  if (in.batch && in.T && in.H) {
    const int64_t heads = heads_per_job(in, threads, type == ScalarType::Double ? 8 : 4);
    const int64_t size = select_forward_scratch(heads, in.depth, in.chooser_depth, in.v.width) + 16;
    SelectForward args{in, before ? before->const_data_ptr() : nullptr, y.mutable_data_ptr(),
                       keep ? sums.mutable_data_ptr() : nullptr, nullptr, size, heads};
    const int64_t jobs = in.batch * in.blocks() * args.groups(), workers = std::min(threads, jobs);
    Tensor scratch = empty_like(after, {workers * size});
    args.scratch = scratch.mutable_data_ptr();
    share_jobs(jobs, workers, [&](int64_t worker, int64_t job) { best::select_forward(args, worker, job); });
  }
  return {y, after, sums, keep && before ? *before : empty_like(v, {0}, type)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> selective_attention(
    std::vector<Tensor> q, std::vector<Tensor> k, const Tensor& v, std::optional<Tensor> sinks,
    std::optional<Tensor> hidden, std::optional<Tensor> starts, std::optional<Tensor> slopes,
    std::optional<Tensor> until, std::vector<Tensor> chooser_q, std::vector<Tensor> chooser_k, double scale,
    std::optional<int64_t> selection_head, bool protect_bos, std::optional<int64_t> window,
    std::optional<double> softcap, bool causal, bool over_time, bool keep) {
  const SelectArguments given(
      "selective_attention", q, k, v, sinks, hidden, starts, slopes, until, chooser_q, chooser_k,
      {scale, selection_head, protect_bos, window, softcap, causal, over_time});
  return attend(given.in, v, keep);
}

void check_table(const char* op, const char* name, const Tensor& table, const SelectInputs& in, ScalarType type) {
  check_shape(op, name, table, {in.batch, in.H, in.T, in.S});
  check_dtype(op, name, table, type);
  STD_TORCH_CHECK(in.T <= 1 || table.stride(2) == 1, op, ": the queries of ", name, " must be dense");
}

std::tuple<Tensor, Tensor> selective_attention_table(
    const Tensor& q, const Tensor& k, const Tensor& v, std::optional<Tensor> sinks, std::optional<Tensor> hidden,
    std::optional<Tensor> starts, double scale, std::optional<int64_t> selection_head, bool protect_bos,
    std::optional<int64_t> window, std::optional<double> softcap, bool causal, std::optional<Tensor> before,
    double share, Tensor total) {
  const char* op = "selective_attention_table";
  SelectArguments given(
      op, {q}, {k}, v, sinks, hidden, starts, std::nullopt, std::nullopt, {}, {},
      {scale, selection_head, protect_bos, window, softcap, causal, true});
  SelectInputs& in = given.in;
  check_table(op, "total", total, in, compute_type(v));
  check_writable(op, "total", total);
  if (before) check_table(op, "before", *before, in, compute_type(v));
  const SelectTable table{
      before ? before->const_data_ptr() : nullptr, total.mutable_data_ptr(), before ? before->stride(0) : 0,
      before ? before->stride(1) : 0, before ? before->stride(3) : 0, total.stride(0), total.stride(1), total.stride(3),
      share};
  in.table = &table;
  const auto [y, after, sums, kept] = attend(in, v, false);
  return {y, after};
}

}  // namespace

}  // namespace hybridgen

STABLE_TORCH_LIBRARY_IMPL(hybridgen_native, CPU, m) {
  m.impl("selective_attention", TORCH_BOX(&hybridgen::selective_attention));
  m.impl("selective_attention_table", TORCH_BOX(&hybridgen::selective_attention_table));
}
