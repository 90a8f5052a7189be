#include "linear_rows.h"

#include <memory>

#include "tensors.h"

namespace hybridgen {

void apply_linear_rows(LinearRows args, const void* x, int64_t stride, float* wide) {
  best::widen_rows(wide, x, args.element, stride, args.rows, args.inputs);
  args.x = wide;
  torch::stable::parallel_for(0, args.outputs, grain(args.inputs), [&](int64_t first, int64_t last) {
    best::linear_rows(args, first, last);
  });
}

namespace {

Tensor linear_rows(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  const char* op = "linear_rows";
  const Element element = element_of(op, "x", x);
  STD_TORCH_CHECK(element != Element::kFloat64, op, ": x must be float32, bfloat16 or float16, but is float64");
  STD_TORCH_CHECK(x.dim() >= 1 && weight.dim() == 2, op, ": x must have one dimension or more and weight two, but x has ",
                  "shape ", shape_text(x), " and weight ", shape_text(weight));
  const Rows values = as_rows(x);
  const int64_t rows = values.count, inputs = values.columns, outputs = weight.size(0);
  check_shape(op, "weight", weight, {outputs, inputs});
  check_shape(op, "bias", bias, {outputs});
  check_dtype(op, "weight", weight, x.scalar_type());
  check_dtype(op, "bias", bias, x.scalar_type());
  const Tensor weights = dense_rows(weight);
  std::optional<Tensor> biases;
  if (bias) biases = dense_rows(*bias);
  const auto wide = std::make_unique_for_overwrite<float[]>(rows * inputs);
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  shape.back() = outputs;
  Tensor out = empty_like(x, shape);
  const LinearRows args{
      out.mutable_data_ptr(), nullptr, weights.const_data_ptr(),
      biases ? biases->const_data_ptr() : nullptr,
      rows, inputs, outputs, weights.stride(0), element};
  apply_linear_rows(args, values.tensor.const_data_ptr(), values.stride, wide.get());
  return out;
}

}  // namespace

}  // namespace hybridgen

STABLE_TORCH_LIBRARY_IMPL(hybridgen_native, CPU, m) {
  m.impl("linear_rows", TORCH_BOX(&hybridgen::linear_rows));
}
