// Mamba-1's selective scan, forward. One vector holds neighbouring channels, so that nothing is summed across lanes.
// A chunk of tokens takes three passes, each over data in the first cache: step sizes, recurrence, gate.
#include "selective_scan_common.h"

namespace hybridgen::HYBRIDGEN_ISA {

namespace {

template <typename S>
struct Chunk {
  Vec<S> dt[kScanChunk], dt_u[kScanChunk], y[kScanChunk];
  uint8_t resets[kScanChunk];
};

// As bounded_exp2 where that is exact enough, and right for all other x.
template <typename V>
V any_exp2(V x) {
  return x <= kBoundedExp2 && x >= -kBoundedExp2 ? bounded_exp2(x) : decay_exp2(x);
}

// h_t = 2^(dt_t A2) h_{t-1} + dt_t u_t B_t for K of the states, their part of C_t h_t added to y. `simple`: no token
// begins a sequence, and the exponents are bounded.
template <typename S, int K, bool simple>
void recur(Chunk<S>& chunk, int64_t count, const Vec<S>* A2, Vec<S>* states, const S* B, const S* C, int64_t N) {
  using V = Vec<S>;
  V a[K], h[K];
  for (int k = 0; k < K; ++k) a[k] = A2[k], h[k] = states[k];
  for (int64_t t = 0; t < count; ++t, B += N, C += N) {
    if (!simple && chunk.resets[t])
      for (int k = 0; k < K; ++k) h[k] = V{};
    const V dt = chunk.dt[t], dt_u = chunk.dt_u[t];
    V y = chunk.y[t];
    for (int k = 0; k < K; ++k) {
      const V x = dt * a[k];
      h[k] = (simple ? bounded_exp2(x) : any_exp2(x)) * h[k] + dt_u * B[k];
      y += h[k] * C[k];
    }
    chunk.y[t] = y;
  }
  for (int k = 0; k < K; ++k) states[k] = h[k];
}

template <typename S, bool simple>
void recur_all(Chunk<S>& chunk, int64_t count, const Vec<S>* A2, Vec<S>* states, const S* B, const S* C, int64_t N) {
  int64_t n = 0;
  for (; n + kStates <= N; n += kStates)
    recur<S, kStates, simple>(chunk, count, A2 + n, states + n, B + n, C + n, N);
  for (; n < N; ++n) recur<S, 1, simple>(chunk, count, A2 + n, states + n, B + n, C + n, N);
}

// What a task keeps of its parameters and of the chunk that it is at.
template <typename T, typename S = Compute<T>>
struct Work {
  using V = Vec<S>;
  Scratch scratch;
  V *A2, *largest, *states, *dt_weight;  // per block of channels: N, the largest |A2|, N, dt_rank
  S *B, *C, *low;                        // per token of a chunk: N, N, dt_rank
  Chunk<S>& chunk;

  Work(const SelectiveScan& scan, const Task<S>& task)
      : scratch((task.count() * (2 * scan.N + scan.dt_rank + 1)) * int64_t{sizeof(V)} +
                kScanChunk * (2 * scan.N + scan.dt_rank) * int64_t{sizeof(S)} + int64_t{sizeof(Chunk<S>)} + 1024),
        A2(scratch.take<V>(task.count() * scan.N)),
        largest(scratch.take<V>(task.count())),
        states(scratch.take<V>(task.count() * scan.N)),
        dt_weight(scratch.take<V>(task.count() * scan.dt_rank)),
        B(scratch.take<S>(kScanChunk * scan.N)),
        C(scratch.take<S>(kScanChunk * scan.N)),
        low(scratch.take<S>(kScanChunk * scan.dt_rank)),
        chunk(*scratch.take<Chunk<S>>(1)) {
    const int64_t N = scan.N;
    const S* const initial =
        scan.initial_state ? static_cast<const S*>(scan.initial_state) + task.row * scan.channels * N : nullptr;
    for (int64_t i = 0; i < task.count(); ++i) {
      V* const a = A2 + i * N;
      gather_states<S>(a, static_cast<const S*>(scan.A), task.block(i), N, scan.A_is_log ? S(1) : S(kLog2e));
      largest[i] = V{};
      for (int64_t n = 0; n < N; ++n) {
        if (scan.A_is_log) a[n] = exp(a[n]) * S(-kLog2e);
        const V size = -negative_magnitude(a[n]);
        // A NaN stays, and bounds nothing.
        largest[i] = size > largest[i] || size != size ? size : largest[i];
      }
      gather_states<S>(states + i * N, initial, task.block(i), N);
      const T* const weight = static_cast<const T*>(scan.dt_weight);
      if (scan.dt_rank) gather_states<S>(dt_weight + i * scan.dt_rank, weight, task.block(i), scan.dt_rank);
    }
  }
};

// dt before the softplus as the product of its weight and a few numbers per token: chunk.dt = bias + weight low.
template <typename S>
void project_dt(Chunk<S>& chunk, const Vec<S>* weight, const S* low, Vec<S> bias, int64_t rank, int64_t count) {
  constexpr int kAtOnce = 4;
  int64_t t = 0;
  for (; t + kAtOnce <= count; t += kAtOnce, low += kAtOnce * rank) {
    Vec<S> sum[kAtOnce];
    for (int i = 0; i < kAtOnce; ++i) sum[i] = bias;
    for (int64_t r = 0; r < rank; ++r)
      for (int i = 0; i < kAtOnce; ++i) sum[i] += weight[r] * low[i * rank + r];
    for (int i = 0; i < kAtOnce; ++i) chunk.dt[t + i] = sum[i];
  }
  for (; t < count; ++t, low += rank) {
    Vec<S> sum = bias;
    for (int64_t r = 0; r < rank; ++r) sum += weight[r] * low[r];
    chunk.dt[t] = sum;
  }
}

// The pass before the recurrence; whether all |dt A2| are bounded.
template <typename T>
bool load_chunk(Work<T>& work, const SelectiveScan& scan, int64_t row, int64_t first, Block block, int64_t index,
                int64_t count, bool prefetch) {
  using S = Compute<T>;
  Chunk<S>& chunk = work.chunk;
  Vec<S> bias{}, skip{};
  if (scan.dt_bias) bias = load_lanes(static_cast<const S*>(scan.dt_bias) + block.first, block.count);
  if (scan.D) skip = load_lanes(static_cast<const S*>(scan.D) + block.first, block.count);
  if (scan.dt_rank) {
    project_dt<S>(chunk, work.dt_weight + index * scan.dt_rank, work.low, bias, scan.dt_rank, count);
  } else {
    const T* dt = at<T>(scan.dt, row, first) + block.first;
    for (int64_t t = 0; t < count; ++t, dt += scan.dt.time) {
      if (prefetch) __builtin_prefetch(dt + kLanes<S>);
      chunk.dt[t] = load_lanes(dt, block.count) + bias;
    }
  }
  const T* u = at<T>(scan.u, row, first) + block.first;
  const Vec<S> largest = work.largest[index];
  typename VecOf<S>::mask bounded = ~typename VecOf<S>::mask{};
  for (int64_t t = 0; t < count; ++t, u += scan.u.time) {
    const Vec<S> x = load_lanes(u, block.count), rate = softplus(chunk.dt[t]);
    if (prefetch) __builtin_prefetch(u + kLanes<S>);
    bounded &= rate * largest <= kBoundedExp2;
    chunk.dt[t] = rate;
    chunk.dt_u[t] = rate * x;
    chunk.y[t] = scan.D ? skip * x : Vec<S>{};
  }
  if (scan.added.data) {
    const T* added = at<T>(scan.added, row, first) + block.first;
    for (int64_t t = 0; t < count; ++t, added += scan.added.time) chunk.y[t] += load_lanes(added, block.count);
  }
  bool all = true;
  for (int i = 0; i < kLanes<S>; ++i) all = all && bounded[i];
  return all;
}

template <typename T>
void store_chunk(const Chunk<Compute<T>>& chunk, T* y, int64_t stride, Block block, int64_t count) {
  for (int64_t t = 0; t < count; ++t) store_lanes(y + t * stride, chunk.y[t], block.count);
}

template <Activation kind, typename T>
void store_gated(const Chunk<Compute<T>>& chunk, T* y, const SelectiveScan& scan, const T* z, Block block,
                 int64_t count, bool prefetch) {
  using S = Compute<T>;
  const S scale = static_cast<S>(scan.scale);
  for (int64_t t = 0; t < count; ++t, y += scan.y.time, z += scan.z.time) {
    if (prefetch) __builtin_prefetch(z + kLanes<S>);
    store_lanes(y, chunk.y[t] * scale * Act<kind>::value(load_lanes(z, block.count)), block.count);
  }
}

template <typename T>
void scan_task(const SelectiveScan& scan, int64_t index) {
  using S = Compute<T>;
  using V = Vec<S>;
  const Task<S> task(scan, index);
  const int64_t N = scan.N, row = task.row;
  Work<T> work(scan, task);
  Chunk<S>& chunk = work.chunk;
  for (int64_t first = 0; first < scan.T; first += kScanChunk) {
    const int64_t count = scan.T - first < kScanChunk ? scan.T - first : kScanChunk;
    widen_rows<T>(work.B, scan.B, row, task.group, first, count, N);
    widen_rows<T>(work.C, scan.C, row, task.group, first, count, N);
    if (scan.dt_rank) widen_rows<T>(work.low, scan.dt, row, 0, first, count, scan.dt_rank);
    const bool any_reset = chunk_resets(chunk.resets, scan, row, first, count);
    for (int64_t i = 0; i < task.count(); ++i) {
      const Block block = task.block(i);
      const bool prefetch = i + 1 < task.count();
      V* const state = work.states + i * N;
      if (scan.kept) {
        S* to = static_cast<S*>(scan.kept) + (first / kScanChunk * scan.batch + row) * N * scan.channels + block.first;
        for (int64_t n = 0; n < N; ++n, to += scan.channels) store_lanes(to, state[n], block.count);
      }
      if (load_chunk<T>(work, scan, row, first, block, i, count, prefetch) && !any_reset) {
        recur_all<S, true>(chunk, count, work.A2 + i * N, state, work.B, work.C, N);
      } else {
        recur_all<S, false>(chunk, count, work.A2 + i * N, state, work.B, work.C, N);
      }
      T* const y = at<T>(scan.y, row, first) + block.first;
      if (!scan.z.data) {
        store_chunk<T>(chunk, y, scan.y.time, block, count);
      } else {
        const T* const z = at<T>(scan.z, row, first) + block.first;
        with_activation(scan.activation, [&]<Activation kind>() {
          store_gated<kind, T>(chunk, y, scan, z, block, count, prefetch);
        });
      }
    }
  }
  if (!scan.final_state) return;
  for (int64_t i = 0; i < task.count(); ++i)
    scatter_states<S>(
        static_cast<S*>(scan.final_state) + row * scan.channels * N, work.states + i * N, task.block(i), N);
}

}  // namespace

void selective_scan_forward(const SelectiveScan& args, int64_t first_task, int64_t last_task) {
  with_element(args.element, [&]<typename T>() {
    for (int64_t task = first_task; task < last_task; ++task) scan_task<T>(args, task);
  });
}

}  // namespace hybridgen::HYBRIDGEN_ISA
