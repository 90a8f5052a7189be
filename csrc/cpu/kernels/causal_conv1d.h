// What the forward and the backward kernel of the causal convolution share.
#pragma once

#include "../causal_conv1d.h"
#include "activations.h"

namespace hybridgen::HYBRIDGEN_ISA {

// Four tokens at a time share the inputs that they all see.
constexpr int kRowsAtOnce = 4;

// One row of the batch.
template <typename T>
struct ConvRow {
  const ConvInput& in;
  const T* x;
  const T* history;
  const uint8_t* resets;

  ConvRow(const ConvInput& input, int64_t batch)
      : in(input),
        x(static_cast<const T*>(input.x) + batch * input.x_batch),
        history(input.history ? static_cast<const T*>(input.history) + batch * (input.width - 1) * input.channels
                              : nullptr),
        resets(input.resets ? input.resets + batch * input.tokens : nullptr) {}

  const Compute<T>* taps(int64_t k) const { return static_cast<const Compute<T>*>(in.taps) + k * in.channels; }

  // Whether position t sees position s <= t: no sequence begins after s and up to t.
  bool linked(int64_t s, int64_t t) const {
    if (!resets) return true;
    for (int64_t r = s < 0 ? 0 : s + 1; r <= t && r < in.tokens; ++r) {
      // Read backwards, the cut between two tokens comes before the other one of them.
      if (in.reverse ? r > 0 && resets[in.tokens - r] : resets[r]) return false;
    }
    return true;
  }

  // The inputs at position s as position t sees them.
  const T* seen(int64_t s, int64_t t) const {
    if (!linked(s, t) || (s < 0 && !history)) return static_cast<const T*>(in.zeros);
    return s < 0 ? history + (s + in.width - 1) * in.channels : x + s * in.x_time;
  }
};

// A whole vector, or the end of a row.
struct Whole {};
struct Part {
  int count;
};
template <typename T>
static inline Vec<Compute<T>> load(const T* from, Whole) {
  return load(from);
}
template <typename T>
static inline Vec<Compute<T>> load(const T* from, Part part) {
  return load_part(from, part.count);
}
template <typename T>
static inline void store(T* to, Vec<Compute<T>> x, Whole) {
  store(to, x);
}
template <typename T>
static inline void store(T* to, Vec<Compute<T>> x, Part part) {
  store_part(to, x, part.count);
}

// Calls body(i, Whole or Part) along `count` elements.
template <typename Scalar, typename Body>
static inline void along(int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes<Scalar> <= count; i += kLanes<Scalar>) body(i, Whole{});
  if (i < count) body(i, Part{static_cast<int>(count - i)});
}

// Position t of channels c..c+count before the activation, into z.
template <typename T>
static void pre_activation(const ConvRow<T>& row, int64_t t, int64_t c, int64_t count, Compute<T>* z) {
  using S = Compute<T>;
  const int64_t K = row.in.width;
  for (int64_t k = -1; k < K; ++k) {
    const T* x = k < 0 ? nullptr : row.seen(t - (K - 1) + k, t) + c;
    const S* tap = row.taps(k < 0 ? K : k) + c;
    along<S>(count, [&](int64_t i, auto lanes) {
      const Vec<S> w = load(tap + i, lanes);
      store(z + i, k < 0 ? w : load(z + i, lanes) + w * load(x + i, lanes), lanes);
    });
  }
}

// Four positions from t on, whose inputs all belong to one sequence and to x; z has rows of kConvChannels.
template <int kWidth, typename T>
static void four_pre_activations(const ConvRow<T>& row, int64_t t, int64_t c, int64_t count, Compute<T>* z) {
  using S = Compute<T>;
  const int64_t K = kWidth ? kWidth : row.in.width, x_time = row.in.x_time, C = row.in.channels;
  const T* x = row.x + (t - (K - 1)) * x_time + c;
  const S* taps = row.taps(0) + c;
  along<S>(count, [&](int64_t i, auto lanes) {
    Vec<S> sums[kRowsAtOnce];
    for (auto& one : sums) one = load(taps + K * C + i, lanes);
#pragma GCC unroll 4
    for (int64_t k = 0; k < K; ++k) {
      const Vec<S> w = load(taps + k * C + i, lanes);
      for (int r = 0; r < kRowsAtOnce; ++r) sums[r] += w * load(x + (k + r) * x_time + i, lanes);
    }
    for (int r = 0; r < kRowsAtOnce; ++r) store(z + r * kConvChannels + i, sums[r], lanes);
  });
}

// Calls body.operator()<K>() for the widths that have code of their own; 0 stands for all others.
template <typename Body>
static inline void with_width(int64_t width, const Body& body) {
  switch (width) {
    case 2: return body.template operator()<2>();
    case 3: return body.template operator()<3>();
    case 4: return body.template operator()<4>();
    default: return body.template operator()<0>();
  }
}

}  // namespace hybridgen::HYBRIDGEN_ISA
