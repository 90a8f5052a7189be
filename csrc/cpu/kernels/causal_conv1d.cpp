#include "causal_conv1d.h"

namespace hybridgen::HYBRIDGEN_ISA {

namespace {

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
        four_pre_activations<kWidth>(row, t, c, count, z);
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

// One token of the channels c..c+count of one row before the activation, into z. The state moves on by one input while
// its old contents are summed up.
template <int kWidth, typename T, typename W>
void step(const ConvUpdate& args, int64_t batch, int64_t c, int64_t count, Compute<T>* __restrict z) {
  const int64_t K = kWidth ? kWidth : args.width, apart = args.state_channel, taps_apart = args.weight_channel;
  const T* __restrict x = static_cast<const T*>(args.x) + batch * args.x_batch + c;
  T* __restrict state = static_cast<T*>(args.state) + batch * args.state_batch + c * apart;
  const W* __restrict weight = static_cast<const W*>(args.weight) + c * taps_apart;
  const W* __restrict bias = args.bias ? static_cast<const W*>(args.bias) + c : nullptr;
  for (int64_t i = 0; i < count; ++i) z[i] = bias ? widen(bias[i]) : 0;
  for (int64_t i = 0; i < count; ++i) {
    T* window = state + i * apart;
    const W* taps = weight + i * taps_apart;
    Compute<T> sum = z[i];
    for (int64_t k = 0; k < K - 1; ++k) {
      sum += widen(taps[k]) * widen(window[k]);
      window[k] = k < K - 2 ? window[k + 1] : x[i];
    }
    z[i] = sum + widen(taps[K - 1]) * widen(x[i]);
  }
}

template <int kWidth, typename T, typename W>
void update(const ConvUpdate& args, int64_t first, int64_t last) {
  Compute<T> z[kConvChannels];
  while (first < last) {
    const int64_t batch = first / args.channels, c = first % args.channels;
    int64_t count = args.channels - c < last - first ? args.channels - c : last - first;
    if (count > kConvChannels) count = kConvChannels;
    step<kWidth, T, W>(args, batch, c, count, z);
    activate(args.activation, static_cast<T*>(args.y) + first, 0, z, 1, count);
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
    with_width(args.width, [&]<int kWidth>() {
      if (args.weight_element == args.element) {
        update<kWidth, T, T>(args, first_channel, last_channel);
      } else {
        update<kWidth, T, Compute<T>>(args, first_channel, last_channel);
      }
    });
  });
}

}  // namespace hybridgen::HYBRIDGEN_ISA
