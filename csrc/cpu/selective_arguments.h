// The arguments that the operators of selective attention share, checked.
#pragma once

#include <atomic>

#include "selective_attention.h"
#include "tensors.h"

namespace hybridgen {

// Options as they stand in the schemas, in that order.
struct SelectOptions {
  double scale;
  std::optional<int64_t> selection_head;
  bool protect_bos;
  std::optional<int64_t> window;
  std::optional<double> softcap;
  bool causal, over_time;
};

// The tensors that the pointers of `in` lead to live as long as this.
struct SelectArguments {
  const char* op;
  std::vector<Tensor> kept;
  std::vector<SelectPair> pairs, choosers;
  SelectInputs in{};

  SelectArguments(
      const char* op, const std::vector<Tensor>& q, const std::vector<Tensor>& k, const Tensor& v,
      const std::optional<Tensor>& sinks, const std::optional<Tensor>& hidden, const std::optional<Tensor>& starts,
      const std::optional<Tensor>& slopes, const std::optional<Tensor>& until, const std::vector<Tensor>& chooser_q,
      const std::vector<Tensor>& chooser_k, const SelectOptions& options)
      : op(op) {
    STD_TORCH_CHECK(!q.empty() && q.size() == k.size(), op, ": there must be as many k as q, and at least one");
    STD_TORCH_CHECK(chooser_q.size() == chooser_k.size(), op, ": choosers need as many keys as queries");
    STD_TORCH_CHECK(q[0].dim() == 4 && v.dim() == 4, op, ": queries and values must have four dimensions");
    in.element = element_of(op, "v", v);
    in.batch = q[0].size(0), in.H = q[0].size(1), in.T = q[0].size(2), in.S = v.size(2);
    STD_TORCH_CHECK(in.T <= in.S, op, ": there are ", in.T, " queries but ", in.S, " keys");
    STD_TORCH_CHECK(in.S < int64_t{1} << 31, op, ": there are too many keys");
    in.v = rows("v", v, {in.batch, v.size(1), in.S, v.size(3)});
    for (size_t i = 0; i < q.size(); ++i) {
      pairs.push_back(
          {rows("q", q[i], {in.batch, in.H, in.T, last(q[i])}),
           rows("k", k[i], {in.batch, k[i].dim() > 1 ? k[i].size(1) : 0, in.S, last(q[i])})});
      in.depth += last(q[i]);
    }
    for (size_t i = 0; i < chooser_q.size(); ++i) {
      choosers.push_back(
          {rows("chooser_q", chooser_q[i], {in.batch, in.T, last(chooser_q[i])}, true),
           rows("chooser_k", chooser_k[i], {in.batch, in.S, last(chooser_q[i])}, true)});
      in.chooser_depth += last(chooser_q[i]);
    }
    in.pairs = pairs.data(), in.pair_count = static_cast<int64_t>(pairs.size());
    in.choosers = choosers.data(), in.chooser_count = static_cast<int64_t>(choosers.size());
    in.sinks = dense("sinks", sinks, {in.H});
    in.slopes = dense("slopes", slopes, {in.H});
    in.hidden = dense("hidden", hidden, {in.batch, in.S - in.T});
    in.starts = indices("starts", starts, in.T, in.starts_batch, in.starts_time);
    in.until = indices("until", until, in.S, in.until_batch, in.until_time);
    set_options(options);
  }

 private:
  static int64_t last(const Tensor& tensor) { return tensor.dim() ? tensor.size(tensor.dim() - 1) : 0; }

  SelectRows rows(
      const char* name, const Tensor& tensor, std::initializer_list<int64_t> shape, bool may_be_wide = false) {
    check_shape(op, name, tensor, shape);
    const Element element = element_of(op, name, tensor);
    const bool wide = may_be_wide && element == Element::kFloat32 && in.element != Element::kFloat64;
    STD_TORCH_CHECK(wide || element == in.element, op, ": ", name, " must have the dtype of v, ",
                    dtype_text(kept.empty() ? tensor.scalar_type() : kept[0].scalar_type()), ", but is ",
                    dtype_text(tensor.scalar_type()));
    const bool heads = tensor.dim() == 4;
    STD_TORCH_CHECK(!heads || (tensor.size(1) > 0 && in.H % tensor.size(1) == 0), op, ": ", name, " has ",
                    tensor.size(1), " heads, which must divide the ", in.H, " heads of q");
    const Tensor& own = kept.emplace_back(dense_rows(tensor));
    return {own.const_data_ptr(), own.stride(0), heads ? own.stride(1) : 0, own.stride(heads ? 2 : 1),
            heads ? own.size(1) : 1, own.size(heads ? 3 : 2), element};
  }

  const void* dense(const char* name, const std::optional<Tensor>& tensor, std::initializer_list<int64_t> shape) {
    if (!tensor) return nullptr;
    check_shape(op, name, *tensor, shape);
    check_dtype(op, name, *tensor, in.element == Element::kFloat64 ? ScalarType::Double : ScalarType::Float);
    return kept.emplace_back(torch::stable::contiguous(*tensor)).const_data_ptr();
  }

  const int64_t* indices(
      const char* name, const std::optional<Tensor>& tensor, int64_t count, int64_t& batch, int64_t& time) {
    if (!tensor) return nullptr;
    check_shape(op, name, *tensor, {in.batch, count});
    STD_TORCH_CHECK(tensor->scalar_type() == ScalarType::Long, op, ": ", name, " must be int64");
    kept.push_back(*tensor);
    batch = tensor->stride(0), time = tensor->stride(1);
    return static_cast<const int64_t*>(tensor->const_data_ptr());
  }

  void set_options(const SelectOptions& options) {
    in.selection_head = options.selection_head.value_or(-1);
    STD_TORCH_CHECK(in.selection_head < in.H && (!options.selection_head || in.selection_head >= 0), op,
                    ": there is no head ", in.selection_head);
    in.window = std::min(options.window.value_or(in.S), in.S);
    in.scale = options.scale, in.softcap = options.softcap.value_or(0), in.capped = options.softcap.has_value();
    in.protect = options.protect_bos, in.causal = options.causal, in.over_time = options.over_time;
    STD_TORCH_CHECK(in.causal || (in.S == in.T && !in.chooses() && !options.window), op,
                    ": without causal there must be as many keys as queries, and no window or selection");
  }
};

// As many threads as have something to do: waking one takes as long as some hundred thousand multiplications.
inline int64_t useful_threads(const SelectInputs& in) {
  const double products = static_cast<double>(in.batch) * in.H * in.T * in.S * (in.depth + in.v.width);
  const int64_t threads = torch::stable::get_num_threads();
  return std::max<int64_t>(1, static_cast<int64_t>(std::min<double>(threads, products / (1 << 18))));
}

// Calls body(worker, job) for all jobs on all threads, in order of time; a worker is busy with one job at a time.
template <typename Body>
void share_jobs(int64_t jobs, int64_t workers, const Body& body) {
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t first, int64_t) {
    for (int64_t job = next++; job < jobs; job = next++) body(first, job);
  });
}

}  // namespace hybridgen
