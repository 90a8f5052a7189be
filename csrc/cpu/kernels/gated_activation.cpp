#include "../gated_activation.h"

#include "activations.h"

namespace hybridgen::HYBRIDGEN_ISA {

namespace {

template <typename T>
T* at(const GateRows& rows, int64_t row, int64_t column) {
  return static_cast<T*>(rows.data) + row * rows.stride + column;
}

// What is gated: one row, or the scaled sum of two. `factor` also scales the gradient.
template <typename T>
struct OneRow {
  const T* row;
  static constexpr Compute<T> factor = 1;
  Group<T> whole(int64_t i) const { return load_group(row + i); }
  Vec<Compute<T>> part(int64_t i, int count) const { return load_part(row + i, count); }
};
template <typename T>
struct TwoRows {
  const T *row, *other;
  Compute<T> factor;
  Group<T> whole(int64_t i) const {
    Group<T> x = load_group(row + i);
    const Group<T> y = load_group(other + i);
    for (int j = 0; j < Group<T>::vectors; ++j) x.part[j] = (x.part[j] + y.part[j]) * factor;
    return x;
  }
  Vec<Compute<T>> part(int64_t i, int count) const {
    return (load_part(row + i, count) + load_part(other + i, count)) * factor;
  }
};

template <bool kStreams, typename T>
void put(T* to, const Group<T>& x) {
  if constexpr (kStreams) {
    stream_group(to, x);
  } else {
    store_group(to, x);
  }
}

// Calls body.operator()<streams>().
template <typename T, typename Body>
void with_stores(bool streams, const Body& body) {
  if constexpr (kCanStream<T>) {
    if (streams) return body.template operator()<true>();
  }
  body.template operator()<false>();
}

template <typename T>
bool aligned(const T* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0;
}

// Calls whole(i) for each whole group of a row of so many columns, and rest(i, count) for parts of vectors.
template <typename T, typename Whole, typename Rest>
void for_groups(int64_t columns, const Whole& whole, const Rest& rest) {
  constexpr int lanes = kLanes<Compute<T>>;
  int64_t i = 0;
  for (; i + Group<T>::size <= columns; i += Group<T>::size) whole(i);
  for (; i < columns; i += lanes) rest(i, static_cast<int>(columns - i < lanes ? columns - i : lanes));
}

template <Activation kind, bool kStreams, typename T, typename Value>
void forward_row(T* out, const Value& value, const T* gate, int64_t columns) {
  for_groups<T>(
      columns,
      [&](int64_t i) {
        Group<T> x = value.whole(i);
        const Group<T> z = load_group(gate + i);
        for (int j = 0; j < Group<T>::vectors; ++j) x.part[j] *= Act<kind>::value(z.part[j]);
        put<kStreams>(out + i, x);
      },
      [&](int64_t i, int count) {
        store_part(out + i, value.part(i, count) * Act<kind>::value(load_part(gate + i, count)), count);
      });
}

// d_other is null where only one row was gated.
template <Activation kind, bool kStreams, typename T, typename Value>
void backward_row(
    T* d_value, T* d_other, T* d_gate, const T* grad, const Value& value, const T* gate, int64_t columns) {
  for_groups<T>(
      columns,
      [&](int64_t i) {
        const Group<T> g = load_group(grad + i), x = value.whole(i), z = load_group(gate + i);
        Group<T> dx, dz;
        for (int j = 0; j < Group<T>::vectors; ++j) {
          const auto act = Act<kind>::both(z.part[j]);
          dx.part[j] = g.part[j] * act.value * value.factor;
          dz.part[j] = g.part[j] * x.part[j] * act.slope;
        }
        put<kStreams>(d_value + i, dx);
        if (d_other) put<kStreams>(d_other + i, dx);
        put<kStreams>(d_gate + i, dz);
      },
      [&](int64_t i, int count) {
        const auto g = load_part(grad + i, count);
        const auto act = Act<kind>::both(load_part(gate + i, count));
        const auto d = g * act.value * value.factor;
        store_part(d_value + i, d, count);
        if (d_other) store_part(d_other + i, d, count);
        store_part(d_gate + i, g * value.part(i, count) * act.slope, count);
      });
}

// Calls body(row, its partner, first column, columns) for each part of a row in the range.
template <typename Args, typename Body>
void for_rows(const Args& args, int64_t begin, int64_t end, const Body& body) {
  for (int64_t row = begin / args.columns, column = begin % args.columns; begin < end; ++row, column = 0) {
    const int64_t rest = args.columns - column, count = rest < end - begin ? rest : end - begin;
    const int64_t place = args.period ? row % args.period : 0;
    body(row, row - place + (args.period - 1 - place), column, count);
    begin += count;
  }
}

template <Activation kind, typename T>
void forward(const GateForward& args, int64_t begin, int64_t end) {
  for_rows(args, begin, end, [&](int64_t row, int64_t partner, int64_t column, int64_t count) {
    T* out = at<T>(args.out, row, column);
    const T *value = at<T>(args.value, row, column), *gate = at<T>(args.gate, row, column);
    with_stores<T>(args.streams && aligned(out), [&]<bool streams>() {
      if (args.period) {
        const TwoRows<T> sum{value, at<T>(args.other, partner, column), static_cast<Compute<T>>(args.scale)};
        forward_row<kind, streams>(out, sum, gate, count);
      } else {
        forward_row<kind, streams>(out, OneRow<T>{value}, gate, count);
      }
    });
  });
}

template <Activation kind, typename T>
void backward(const GateBackward& args, int64_t begin, int64_t end) {
  for_rows(args, begin, end, [&](int64_t row, int64_t partner, int64_t column, int64_t count) {
    T *d_value = at<T>(args.d_value, row, column), *d_gate = at<T>(args.d_gate, row, column);
    const T *value = at<T>(args.value, row, column), *gate = at<T>(args.gate, row, column);
    const T* grad = at<T>(args.grad, row, column);
    T* d_other = args.period ? at<T>(args.d_other, partner, column) : nullptr;
    with_stores<T>(args.streams && aligned(d_value) && aligned(d_other) && aligned(d_gate), [&]<bool streams>() {
      if (args.period) {
        const TwoRows<T> sum{value, at<T>(args.other, partner, column), static_cast<Compute<T>>(args.scale)};
        backward_row<kind, streams>(d_value, d_other, d_gate, grad, sum, gate, count);
      } else {
        backward_row<kind, streams>(d_value, static_cast<T*>(nullptr), d_gate, grad, OneRow<T>{value}, gate, count);
      }
    });
  });
}

}  // namespace

void gated_activation_forward(const GateForward& args, int64_t begin, int64_t end) {
  with_element(args.element, [&]<typename T>() {
    with_activation(args.activation, [&]<Activation kind>() { forward<kind, T>(args, begin, end); });
  });
  if (args.streams) stream_fence();
}

void gated_activation_backward(const GateBackward& args, int64_t begin, int64_t end) {
  with_element(args.element, [&]<typename T>() {
    with_activation(args.activation, [&]<Activation kind>() { backward<kind, T>(args, begin, end); });
  });
  if (args.streams) stream_fence();
}

}  // namespace hybridgen::HYBRIDGEN_ISA
