#include "causal_conv1d.h"

namespace hybridgen::HYBRIDGEN_ISA {

namespace {

// Four tokens from t on before the activation, whose inputs all belong to one sequence and to x.
template <int kWidth, typename T>
void four_rows(const ConvRow<T>& row, Compute<T>* z, int64_t t, int64_t c, int64_t count) {
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

// In a function of its own, so that the eleven activations are not compiled once per width.
template <typename T>
void activate(int32_t activation, T* y, int64_t y_time, const Compute<T>* z, int64_t rows, int64_t count) {
  with_activation(activation, [&]<Activation kind>() {
    for (int64_t r = 0; r < rows; ++r) {
      along<Compute<T>>(count, [&](int64_t i, auto lanes) {
        store(y + r * y_time + i, Act<kind>::value(load(z + r * kConvChannels + i, lanes)), lanes);
      });
    }
  });
}

template <typename T>
void final_state(const ConvRow<T>& row, T* state, int64_t c, int64_t count) {
  const int64_t K = row.in.width, T_ = row.in.tokens;
  for (int64_t k = 0; k < K - 1; ++k) {
    const T* x = row.seen(T_ - (K - 1) + k, T_) + c;
    for (int64_t i = 0; i < count; ++i) state[(c + i) * (K - 1) + k] = x[i];
  }
}

template <int kWidth, typename T>
void forward(const ConvForward& args, int64_t first, int64_t last) {
  const ConvInput& in = args.input;
  const int64_t blocks = (in.channels + kConvChannels - 1) / kConvChannels;
  const int64_t chunks = in.tokens ? (in.tokens + kConvForwardTokens - 1) / kConvForwardTokens : 1;
  for (int64_t task = first; task < last; ++task) {
    const int64_t batch = task / (blocks * chunks), chunk = task / blocks % chunks;
    const int64_t c = task % blocks * kConvChannels;
    const int64_t count = c + kConvChannels < in.channels ? kConvChannels : in.channels - c;
    const ConvRow<T> row(in, batch);
    T* y = static_cast<T*>(args.y) + batch * args.y_batch + c;
    int64_t t = chunk * kConvForwardTokens;
    const int64_t end = t + kConvForwardTokens < in.tokens ? t + kConvForwardTokens : in.tokens;
    Compute<T> z[kRowsAtOnce * kConvChannels];
    while (t < end) {
      const int64_t earliest = t - (in.width - 1), latest = t + kRowsAtOnce - 1;
      const bool four = latest < end && earliest >= 0 && row.linked(earliest, latest);
      if (four) {
        four_rows<kWidth>(row, z, t, c, count);
      } else {
        pre_activation(row, t, c, count, z);
      }
      const int64_t rows = four ? kRowsAtOnce : 1;
      activate(in.activation, y + t * args.y_time, args.y_time, z, rows, count);
      t += rows;
    }
    if (chunk == chunks - 1) {
      final_state(row, static_cast<T*>(args.final_state) + batch * in.channels * (in.width - 1), c, count);
    }
  }
}

template <typename Scalar, typename W>
inline Vec<Scalar> gather(const W* from, int64_t stride, int count) {
  Vec<Scalar> x{};
  for (int i = 0; i < count; ++i) x[i] = widen(from[i * stride]);
  return x;
}

// The state moves on by one input while its old contents are summed up.
template <typename T, typename W>
void update(const ConvUpdate& args, int64_t first, int64_t last) {
  using S = Compute<T>;
  const int64_t K = args.width;
  S sums[kConvChannels];
  int64_t done = 0;
  while (first < last) {
    const int64_t batch = first / args.channels, c = first % args.channels;
    const int64_t left = args.channels - c < last - first ? args.channels - c : last - first;
    const int count = left < kLanes<S> ? static_cast<int>(left) : kLanes<S>;
    const T* x = static_cast<const T*>(args.x) + batch * args.x_batch + c;
    T* state = static_cast<T*>(args.state) + batch * args.state_batch + c * args.state_channel;
    const W* weight = static_cast<const W*>(args.weight) + c * args.weight_channel;
    Vec<S> z = args.bias ? gather<S>(static_cast<const W*>(args.bias) + c, 1, count) : Vec<S>{};
    for (int64_t k = 0; k < K - 1; ++k) {
      z += gather<S>(weight + k, args.weight_channel, count) * gather<S>(state + k, args.state_channel, count);
    }
    z += gather<S>(weight + K - 1, args.weight_channel, count) * gather<S>(x, 1, count);
    for (int i = 0; i < count && K > 1; ++i) {
      T* window = state + i * args.state_channel;
      for (int64_t k = 0; k < K - 2; ++k) window[k] = window[k + 1];
      window[K - 2] = x[i];
    }
    store_part(sums + done, z, count);
    done += count;
    if (done > kConvChannels - kLanes<S> || first + count == last) {
      activate(args.activation, static_cast<T*>(args.y) + first + count - done, 0, sums, 1, done);
      done = 0;
    }
    first += count;
  }
}

}  // namespace

void causal_conv1d_forward(const ConvForward& args, int64_t first_task, int64_t last_task) {
  with_element(args.input.element, [&]<typename T>() {
    with_width(args.input.width, [&]<int kWidth>() { forward<kWidth, T>(args, first_task, last_task); });
  });
}

void causal_conv1d_update(const ConvUpdate& args, int64_t first_channel, int64_t last_channel) {
  with_element(args.element, [&]<typename T>() {
    if (args.weight_element == args.element) {
      update<T, T>(args, first_channel, last_channel);
    } else {
      update<T, Compute<T>>(args, first_channel, last_channel);
    }
  });
}

}  // namespace hybridgen::HYBRIDGEN_ISA
