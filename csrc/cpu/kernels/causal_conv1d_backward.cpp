#include "causal_conv1d.h"

namespace hybridgen::HYBRIDGEN_ISA {

namespace {

// Tokens whose gradients before the activation are held at once.
constexpr int64_t kHeld = 16;

// One task: the tokens begin..end of the channels c..c+count of one row.
template <typename T>
struct Task {
  using S = Compute<T>;
  const ConvBackward& args;
  const ConvRow<T>& row;
  const T* grad;
  T* dx;
  S* dtaps;  // (K + 1, C), at channel c
  S* dz;     // (kHeld + K - 1, kConvChannels): gradients before the activation from token `held` on
  int64_t held, c, count;

  S* dz_at(int64_t t) const { return dz + (t - held) * kConvChannels; }
};

// From outputs before the activation to their gradients, in place. In a function of its own, so that the eleven
// activations are not compiled once per width.
template <typename T>
void through_activation(const Task<T>& task, int64_t t, int64_t rows) {
  using S = Compute<T>;
  with_activation(task.row.in.activation, [&]<Activation kind>() {
    for (int64_t r = 0; r < rows; ++r) {
      S* dz = task.dz_at(t + r);
      const T* grad = task.grad + (t + r) * task.args.grad_time;
      along<S>(task.count, [&](int64_t i, auto lanes) {
        store(dz + i, load(grad + i, lanes) * Act<kind>::both(load(dz + i, lanes)).slope, lanes);
      });
    }
  });
}

// Adds four tokens' share to the gradients of taps and bias.
template <int kWidth, typename T>
void four_shares(const Task<T>& task, int64_t t) {
  using S = Compute<T>;
  const ConvRow<T>& row = task.row;
  const int64_t K = kWidth ? kWidth : row.in.width, x_time = row.in.x_time, C = row.in.channels;
  const T* x = row.x + (t - (K - 1)) * x_time + task.c;
  const S* dz = task.dz_at(t);
  S* dtaps = task.dtaps;
  along<S>(task.count, [&](int64_t i, auto lanes) {
    Vec<S> d[kRowsAtOnce], total{};
    for (int r = 0; r < kRowsAtOnce; ++r) total += d[r] = load(dz + r * kConvChannels + i, lanes);
    store(dtaps + K * C + i, load(dtaps + K * C + i, lanes) + total, lanes);
#pragma GCC unroll 4
    for (int64_t k = 0; k < K; ++k) {
      Vec<S> dw = load(dtaps + k * C + i, lanes);
      for (int r = 0; r < kRowsAtOnce; ++r) dw += d[r] * load(x + (k + r) * x_time + i, lanes);
      store(dtaps + k * C + i, dw, lanes);
    }
  });
}

// The same for one token, wherever its inputs come from.
template <typename T>
void one_share(const Task<T>& task, int64_t t) {
  using S = Compute<T>;
  const int64_t K = task.row.in.width;
  const S* dz = task.dz_at(t);
  for (int64_t k = 0; k <= K; ++k) {
    S* dtap = task.dtaps + k * task.row.in.channels;
    const T* x = k < K ? task.row.seen(t - (K - 1) + k, t) + task.c : nullptr;
    along<S>(task.count, [&](int64_t i, auto lanes) {
      const Vec<S> d = load(dz + i, lanes);
      store(dtap + i, load(dtap + i, lanes) + (x ? d * load(x + i, lanes) : d), lanes);
    });
  }
}

// dx of four tokens from s on, seen by K - 1 later tokens of their own sequence.
template <int kWidth, typename T>
void four_inputs(const Task<T>& task, int64_t s) {
  using S = Compute<T>;
  const int64_t K = kWidth ? kWidth : task.row.in.width, C = task.row.in.channels;
  const S* taps = task.row.taps(0) + task.c;
  const S* dz = task.dz_at(s);
  T* dx = task.dx + s * task.args.dx_time;
  along<S>(task.count, [&](int64_t i, auto lanes) {
    Vec<S> d[kRowsAtOnce] = {};
#pragma GCC unroll 4
    for (int64_t j = 0; j < K; ++j) {
      const Vec<S> w = load(taps + (K - 1 - j) * C + i, lanes);
      for (int r = 0; r < kRowsAtOnce; ++r) d[r] += w * load(dz + (r + j) * kConvChannels + i, lanes);
    }
    for (int r = 0; r < kRowsAtOnce; ++r) store(dx + r * task.args.dx_time + i, d[r], lanes);
  });
}

// The gradient of the input at any position s, carried ones included, into `out`.
template <typename T>
void one_input(const Task<T>& task, int64_t s, const Compute<T>* grad_final, Compute<T>* out) {
  using S = Compute<T>;
  const ConvRow<T>& row = task.row;
  const int64_t K = row.in.width, tokens = row.in.tokens;
  const int64_t place = s - (tokens - (K - 1));
  const bool kept = grad_final && place >= 0 && row.linked(s, tokens);
  for (int64_t i = 0; i < task.count; ++i) out[i] = kept ? grad_final[place * row.in.channels + task.c + i] : S(0);
  for (int64_t j = s < 0 ? -s : 0; j < K && s + j < tokens && row.linked(s, s + j); ++j) {
    const S* tap = row.taps(K - 1 - j) + task.c;
    const S* dz = task.dz_at(s + j);
    along<S>(task.count, [&](int64_t i, auto lanes) {
      store(out + i, load(out + i, lanes) + load(tap + i, lanes) * load(dz + i, lanes), lanes);
    });
  }
}

// Gradients before the activation of the tokens t..end; those of the taps count only the chunk's own tokens.
template <int kWidth, typename T>
void held_gradients(const Task<T>& task, int64_t t, int64_t end, bool own) {
  const int64_t K = task.row.in.width;
  while (t < end) {
    const bool four = t + kRowsAtOnce <= end && t >= K - 1 && task.row.linked(t - (K - 1), t + kRowsAtOnce - 1);
    if (four) {
      four_pre_activations<kWidth>(task.row, t, task.c, task.count, task.dz_at(t));
    } else {
      pre_activation(task.row, t, task.c, task.count, task.dz_at(t));
    }
    through_activation(task, t, four ? kRowsAtOnce : 1);
    if (own && four) four_shares<kWidth>(task, t);
    if (own && !four) one_share(task, t);
    t += four ? kRowsAtOnce : 1;
  }
}

template <int kWidth, typename T>
void held_inputs(const Task<T>& task, int64_t s, int64_t end, const Compute<T>* grad_final) {
  const int64_t K = task.row.in.width;
  Compute<T> d[kConvChannels];
  while (s < end) {
    const int64_t seen_to = s + kRowsAtOnce - 1 + K - 1;
    const bool four = s + kRowsAtOnce <= end && seen_to < task.row.in.tokens && task.row.linked(s, seen_to);
    if (four) {
      four_inputs<kWidth>(task, s);
    } else {
      one_input(task, s, grad_final, d);
      T* dx = task.dx + s * task.args.dx_time;
      along<Compute<T>>(task.count, [&](int64_t i, auto lanes) { store(dx + i, load(d + i, lanes), lanes); });
    }
    s += four ? kRowsAtOnce : 1;
  }
}

// From the end of the chunk to its beginning, as dx needs the gradients of later tokens.
template <int kWidth, typename T>
void run(Task<T> task, int64_t begin, int64_t end, const Compute<T>* grad_final, Compute<T>* dhistory) {
  const int64_t K = task.row.in.width, C = task.row.in.channels, tokens = task.row.in.tokens;
  for (int64_t k = 0; k <= K; ++k) {
    for (int64_t i = 0; i < task.count; ++i) task.dtaps[k * C + i] = 0;
  }
  // The first piece also needs the first K-1 tokens of the next chunk.
  int64_t upper = end, known = end;
  do {
    const int64_t lower = upper - kHeld > begin ? upper - kHeld : begin;
    if (upper == end) {
      task.held = lower;
      const int64_t after = end + K - 1 < tokens ? end + K - 1 : tokens;
      held_gradients<kWidth>(task, end, after, false);
    } else {
      // Moved from the end, since the places may overlap.
      for (int64_t j = K - 2; j >= 0; --j) {
        const auto* from = task.dz + (known - task.held + j) * kConvChannels;
        auto* to = task.dz + (known - lower + j) * kConvChannels;
        for (int64_t i = 0; i < task.count; ++i) to[i] = from[i];
      }
      task.held = lower;
    }
    held_gradients<kWidth>(task, lower, upper, true);
    held_inputs<kWidth>(task, lower, upper, grad_final);
    upper = known = lower;
  } while (upper > begin);
  if (begin == 0 && dhistory) {
    for (int64_t s = -(K - 1); s < 0; ++s) one_input(task, s, grad_final, dhistory + (s + K - 1) * C + task.c);
  }
}

template <typename S>
struct Zeros {
  S* const data;

  explicit Zeros(int64_t count) : data(new S[count]()) {}
  ~Zeros() { delete[] data; }
  Zeros(const Zeros&) = delete;
};

template <int kWidth, typename T>
void backward(const ConvBackward& args, int64_t first, int64_t last) {
  using S = Compute<T>;
  const ConvInput& in = args.input;
  const int64_t blocks = (in.channels + kConvChannels - 1) / kConvChannels, carried = (in.width - 1) * in.channels;
  const int64_t chunks = in.tokens ? (in.tokens + kConvBackwardTokens - 1) / kConvBackwardTokens : 1;
  const Zeros<S> dz((kHeld + in.width - 1) * kConvChannels);
  for (int64_t number = first; number < last; ++number) {
    const int64_t batch = number / (blocks * chunks), chunk = number / blocks % chunks;
    const int64_t c = number % blocks * kConvChannels;
    const int64_t begin = chunk * kConvBackwardTokens;
    const ConvRow<T> row(in, batch);
    const Task<T> task{
        args, row,
        static_cast<const T*>(args.grad) + batch * args.grad_batch + c,
        static_cast<T*>(args.dx) + batch * args.dx_batch + c,
        static_cast<S*>(args.partial) + (batch * chunks + chunk) * (in.width + 1) * in.channels + c,
        dz.data, 0, c, c + kConvChannels < in.channels ? kConvChannels : in.channels - c};
    run<kWidth>(
        task, begin, begin + kConvBackwardTokens < in.tokens ? begin + kConvBackwardTokens : in.tokens,
        args.grad_final ? static_cast<const S*>(args.grad_final) + batch * carried : nullptr,
        args.dhistory ? static_cast<S*>(args.dhistory) + batch * carried : nullptr);
  }
}

}  // namespace

void causal_conv1d_backward(const ConvBackward& args, int64_t first_task, int64_t last_task) {
  with_element(args.input.element, [&]<typename T>() {
    with_width(args.input.width, [&]<int kWidth>() { backward<kWidth, T>(args, first_task, last_task); });
  });
}

}  // namespace hybridgen::HYBRIDGEN_ISA
