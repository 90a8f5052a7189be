#include "add_norm.h"

#include <memory>

#include "tensors.h"

namespace hybridgen {

namespace {

constexpr int64_t kBlocks = 32;         // at most, in the backward pass
constexpr int64_t kRowsPerBlock = 16;   // at least

// The tensors of a norm as rows, kept alive, and what they say to the kernels.
struct Inputs {
  const char* op;
  Rows branch;
  std::optional<Rows> residual;
  Tensor weight;
  std::optional<Tensor> bias;
  AddNorm norm;
};

NormRows rows_for(const char* op, const char* name, const Rows& rows) {
  return {const_cast<void*>(rows.tensor.const_data_ptr()), rows.stride, element_of(op, name, rows.tensor)};
}

NormRows dense_rows_for(const Tensor& tensor, int64_t columns) {
  return {tensor.mutable_data_ptr(), columns, element_of("add_norm", "output", tensor)};
}

// The arithmetic is float64 for all tensors or for none.
void check_width(const char* op, const char* name, ScalarType type, const Tensor& branch) {
  STD_TORCH_CHECK(
      (type == ScalarType::Double) == (branch.scalar_type() == ScalarType::Double), op, ": ", name,
      " must be float64 if and only if branch is, but they are ", dtype_text(type), " and ",
      dtype_text(branch.scalar_type()));
}

// The rows of a tensor of the branch's shape.
Rows matching_rows(const char* op, const char* name, const Tensor& tensor, const Tensor& branch) {
  bool same = tensor.dim() == branch.dim();
  for (int64_t i = 0; same && i < branch.dim(); ++i) same = tensor.size(i) == branch.size(i);
  STD_TORCH_CHECK(same, op, ": ", name, " must have shape ", shape_text(branch), ", but has ", shape_text(tensor));
  check_width(op, name, tensor.scalar_type(), branch);
  return as_rows(tensor);
}

Inputs inputs_of(
    const char* op, const Tensor& branch, const std::optional<Tensor>& residual, const Tensor& weight,
    const std::optional<Tensor>& bias, double weight_offset, double eps, bool is_rms) {
  STD_TORCH_CHECK(branch.dim() >= 1, op, ": branch must have shape (..., D), but has ()");
  const int64_t columns = branch.size(branch.dim() - 1);
  check_shape(op, "weight", weight, {columns});
  check_shape(op, "bias", bias, {columns});
  check_width(op, "weight", weight.scalar_type(), branch);
  Inputs in{op, as_rows(branch), std::nullopt, dense_rows(weight), std::nullopt, {}};
  in.norm = {
      .branch = rows_for(op, "branch", in.branch), .residual = {},
      .weight = {const_cast<void*>(in.weight.const_data_ptr()), columns, element_of(op, "weight", weight)}, .bias = {},
      .columns = columns, .weight_offset = weight_offset, .eps = eps, .is_rms = is_rms};
  if (residual) {
    in.residual = matching_rows(op, "residual", *residual, branch);
    in.norm.residual = rows_for(op, "residual", *in.residual);
  }
  if (bias) {
    check_width(op, "bias", bias->scalar_type(), branch);
    in.bias = dense_rows(*bias);
    in.norm.bias = {const_cast<void*>(in.bias->const_data_ptr()), columns, element_of(op, "bias", *bias)};
  }
  return in;
}

Tensor dense_as(const Tensor& tensor, ScalarType type) {
  return empty_like(tensor, {tensor.sizes().begin(), tensor.sizes().end()}, type);
}

Tensor absent(const Tensor& tensor) { return empty_like(tensor, {0}); }

// Calls kernel(scratch memory, begin, end) in each thread.
template <typename Kernel>
void run(int64_t jobs, int64_t least, int64_t scratch_elements, const Kernel& kernel) {
  torch::stable::parallel_for(0, jobs, least, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<double[]> scratch(new double[scratch_elements]);
    kernel(scratch.get(), begin, end);
  });
}

std::tuple<Tensor, Tensor> add_norm(
    const Tensor& branch, const std::optional<Tensor>& residual, const Tensor& weight,
    const std::optional<Tensor>& bias, double weight_offset, double eps, bool is_rms,
    std::optional<ScalarType> total_type) {
  const char* op = "add_norm";
  const Inputs in = inputs_of(op, branch, residual, weight, bias, weight_offset, eps, is_rms);
  STD_TORCH_CHECK(residual || !total_type, op, ": without a residual there is no sum to return");
  if (total_type) check_width(op, "the sum", *total_type, branch);
  Tensor normed = dense_as(branch, weight.scalar_type());
  Tensor total = total_type ? dense_as(branch, *total_type) : absent(branch);
  const int64_t columns = in.norm.columns;
  if (columns == 0) return {normed, total};
  AddNormForward args{.norm = in.norm, .normed = dense_rows_for(normed, columns), .total = {}};
  if (total_type) args.total = dense_rows_for(total, columns);
  run(in.branch.count, grain(columns), kAddNormForwardScratch * columns,
      [&](double* scratch, int64_t begin, int64_t end) { best::add_norm_forward(args, scratch, begin, end); });
  return {normed, total};
}

// The gradients of branch, residual (empty unless it has a dtype), weight and bias (empty if there is none).
std::tuple<Tensor, Tensor, Tensor, Tensor> add_norm_backward(
    const Tensor& grad, const std::optional<Tensor>& grad_total, const Tensor& branch,
    const std::optional<Tensor>& residual, const Tensor& weight, const std::optional<Tensor>& bias,
    double weight_offset, double eps, bool is_rms, ScalarType branch_type, std::optional<ScalarType> residual_type) {
  const char* op = "add_norm_backward";
  const Inputs in = inputs_of(op, branch, residual, weight, bias, weight_offset, eps, is_rms);
  const Rows grads = matching_rows(op, "grad", grad, branch);
  std::optional<Rows> total_grads;
  if (grad_total) total_grads = matching_rows(op, "grad_total", *grad_total, branch);
  check_width(op, "branch's gradient", branch_type, branch);
  if (residual_type) check_width(op, "residual's gradient", *residual_type, branch);

  const int64_t columns = in.norm.columns, rows = in.branch.count;
  const int64_t rows_per_block = std::max(kRowsPerBlock, (rows + kBlocks - 1) / kBlocks);
  const int64_t blocks = (rows + rows_per_block - 1) / rows_per_block;
  Tensor d_branch = dense_as(branch, branch_type);
  Tensor d_residual = residual_type ? dense_as(branch, *residual_type) : absent(branch);
  Tensor d_weight = empty_like(weight, {columns}), d_bias = bias ? empty_like(*bias, {columns}) : absent(branch);
  if (columns == 0) return {d_branch, d_residual, d_weight, d_bias};
  const Tensor weight_parts = empty_like(branch, {blocks, columns}, compute_type(branch));
  const Tensor bias_parts = empty_like(branch, {bias ? blocks : 0, columns}, compute_type(branch));

  AddNormBackward args{
      .norm = in.norm, .grad = rows_for(op, "grad", grads), .grad_total = {},
      .d_branch = dense_rows_for(d_branch, columns), .d_residual = {}, .d_weight = weight_parts.mutable_data_ptr(),
      .d_bias = bias ? bias_parts.mutable_data_ptr() : nullptr, .rows = rows, .rows_per_block = rows_per_block};
  if (total_grads) args.grad_total = rows_for(op, "grad_total", *total_grads);
  if (residual_type) args.d_residual = dense_rows_for(d_residual, columns);
  run(blocks, 1, kAddNormBackwardScratch * columns,
      [&](double* scratch, int64_t begin, int64_t end) { best::add_norm_backward(args, scratch, begin, end); });
  best::add_norm_sum(AddNormSum{dense_rows_for(d_weight, columns), weight_parts.const_data_ptr(), blocks, columns});
  if (bias) {
    best::add_norm_sum(AddNormSum{dense_rows_for(d_bias, columns), bias_parts.const_data_ptr(), blocks, columns});
  }
  return {d_branch, d_residual, d_weight, d_bias};
}

}  // namespace

}  // namespace hybridgen

STABLE_TORCH_LIBRARY_IMPL(hybridgen_native, CPU, m) {
  m.impl("add_norm", TORCH_BOX(&hybridgen::add_norm));
  m.impl("add_norm_backward", TORCH_BOX(&hybridgen::add_norm_backward));
}
