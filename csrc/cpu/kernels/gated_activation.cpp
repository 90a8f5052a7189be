#include "../gated_activation.h"

#include "activations.h"

namespace hybridgen::HYBRIDGEN_ISA {

namespace {

template <Activation kind, typename T>
void forward_row(T* out, const T* value, const T* gate, int64_t columns) {
  constexpr int lanes = kLanes<Compute<T>>;
  int64_t i = 0;
  for (; i + lanes <= columns; i += lanes) store(out + i, load(value + i) * Act<kind>::value(load(gate + i)));
  const int rest = static_cast<int>(columns - i);
  if (rest) store_part(out + i, load_part(value + i, rest) * Act<kind>::value(load_part(gate + i, rest)), rest);
}

template <typename T>
void forward(const GateForward& args, int64_t first, int64_t last) {
  with_activation(args.activation, [&]<Activation kind>() {
    for (int64_t row = first; row < last; ++row) {
      forward_row<kind>(
          static_cast<T*>(args.out) + row * args.out_stride,
          static_cast<const T*>(args.value) + row * args.value_stride,
          static_cast<const T*>(args.gate) + row * args.gate_stride, args.columns);
    }
  });
}

}  // namespace

void gated_activation_forward(const GateForward& args, int64_t first_row, int64_t last_row) {
  with_element(args.element, [&]<typename T>() { forward<T>(args, first_row, last_row); });
}

}  // namespace hybridgen::HYBRIDGEN_ISA
