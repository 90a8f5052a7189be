// One token of Mamba-1's selective scan. The state lies as (D, N), so here a vector holds neighbouring states of one
// channel; the sums over states of a whole block of channels are taken together.
#include "selective_scan_common.h"

namespace hybridgen::HYBRIDGEN_ISA {

namespace {

constexpr int64_t kAhead = 512;

template <bool is_log, typename V>
inline V rates(V A) {
  if constexpr (is_log) return -exp(A);
  return A;
}

// The new state of one channel in place; the parts of C h, one per lane.
template <bool is_log, typename T, typename S = Compute<T>>
inline Vec<S> step(S* state, const S* A, const T* B, const T* C, S dt_log2e, S dt_u, int64_t N) {
  Vec<S> sum{};
  int64_t n = 0;
  for (; n + kLanes<S> <= N; n += kLanes<S>) {
    const Vec<S> h = decay_exp2(rates<is_log>(load(A + n)) * dt_log2e) * load(state + n) + load(B + n) * dt_u;
    store(state + n, h);
    sum += h * load(C + n);
  }
  if (const int rest = static_cast<int>(N - n)) {
    const Vec<S> decay = decay_exp2(rates<is_log>(load_part(A + n, rest)) * dt_log2e);
    const Vec<S> h = decay * load_part(state + n, rest) + load_part(B + n, rest) * dt_u;
    store_part(state + n, h, rest);
    const Vec<S> read = load_part(C + n, rest);
    // The lanes behind the last state are left out: they are 0, but NaN where dt or u is.
    for (int i = 0; i < rest; ++i) sum[i] += h[i] * read[i];
  }
  return sum;
}

template <bool is_log, typename T>
void update_block(const SelectiveUpdate& args, int64_t row, int64_t first, int count) {
  using S = Compute<T>;
  using V = Vec<S>;
  const int64_t N = args.N, heads = args.channels / args.groups;
  V u = load_lanes(at<T>(args.u, row, 0) + first, count), rate = load_lanes(at<T>(args.dt, row, 0) + first, count);
  if (args.dt_bias) rate += load_lanes(static_cast<const S*>(args.dt_bias) + first, count);
  rate = softplus(rate);
  alignas(V) S dt_log2e[kLanes<S>], dt_u[kLanes<S>];
  store(dt_log2e, rate * S(kLog2e));
  store(dt_u, rate * u);
  V sums[kLanes<S>] = {};
  const int64_t group = first / heads;
  int64_t left = heads - first % heads;
  const T *B = at<T>(args.B, row, 0, group), *C = at<T>(args.C, row, 0, group);
  S* state = static_cast<S*>(args.state) + (row * args.channels + first) * N;
  const S* A = static_cast<const S*>(args.A) + first * N;
  for (int i = 0; i < count; ++i, state += N, A += N, --left) {
    if (left == 0) {
      B += args.B.group, C += args.C.group;
      left = heads;
    }
    if constexpr (is_log) {
      // Within a model's step neither is in the nearer caches. Prefetching past the end does no harm.
      __builtin_prefetch(state + kAhead, 1, 2);
      __builtin_prefetch(A + kAhead, 0, 2);
    }
    sums[i] = step<is_log, T>(state, A, B, C, dt_log2e[i], dt_u[i], N);
  }
  V y = row_sums<S>(sums);
  if (args.D) y += load_lanes(static_cast<const S*>(args.D) + first, count) * u;
  if (args.z.data) {
    const V z = load_lanes(at<T>(args.z, row, 0) + first, count);
    with_activation(args.activation, [&]<Activation kind>() { y *= Act<kind>::value(z); });
  }
  store_lanes(at<T>(args.y, row, 0) + first, y, count);
}

}  // namespace

void selective_state_update(const SelectiveUpdate& args, int64_t first_item, int64_t last_item) {
  const int64_t per_row = (args.channels + kUpdateBlock - 1) / kUpdateBlock;
  with_element(args.element, [&]<typename T>() {
    constexpr int lanes = kLanes<Compute<T>>;
    for (int64_t item = first_item; item < last_item; ++item) {
      const int64_t first = item % per_row * kUpdateBlock, end = first + kUpdateBlock;
      const int64_t last = end < args.channels ? end : args.channels;
      for (int64_t channel = first; channel < last; channel += lanes) {
        const int64_t rest = last - channel;
        const int count = static_cast<int>(rest < lanes ? rest : lanes);
        if (args.A_is_log) {
          update_block<true, T>(args, item / per_row, channel, count);
        } else {
          update_block<false, T>(args, item / per_row, channel, count);
        }
      }
    }
  });
}

}  // namespace hybridgen::HYBRIDGEN_ISA
