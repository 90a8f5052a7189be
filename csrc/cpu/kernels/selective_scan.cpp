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

// h_t = 2^(dt_t A2) h_{t-1} + dt_t u_t B_t for K of the states, their part of C_t h_t added to y.
template <typename S, int K, bool with_resets>
void recur(Chunk<S>& chunk, int64_t count, const Vec<S>* A2, Vec<S>* states, const S* B, const S* C, int64_t N) {
  using V = Vec<S>;
  V a[K], h[K];
  for (int k = 0; k < K; ++k) a[k] = A2[k], h[k] = states[k];
  for (int64_t t = 0; t < count; ++t, B += N, C += N) {
    if (with_resets && chunk.resets[t])
      for (int k = 0; k < K; ++k) h[k] = V{};
    const V dt = chunk.dt[t], dt_u = chunk.dt_u[t];
    V y = chunk.y[t];
    for (int k = 0; k < K; ++k) {
      h[k] = decay_exp2(dt * a[k]) * h[k] + dt_u * B[k];
      y += h[k] * C[k];
    }
    chunk.y[t] = y;
  }
  for (int k = 0; k < K; ++k) states[k] = h[k];
}

template <typename S, bool with_resets>
void recur_all(Chunk<S>& chunk, int64_t count, const Vec<S>* A2, Vec<S>* states, const S* B, const S* C, int64_t N) {
  int64_t n = 0;
  for (; n + kStates <= N; n += kStates)
    recur<S, kStates, with_resets>(chunk, count, A2 + n, states + n, B + n, C + n, N);
  for (; n < N; ++n) recur<S, 1, with_resets>(chunk, count, A2 + n, states + n, B + n, C + n, N);
}

template <typename T>
void load_chunk(Chunk<Compute<T>>& chunk, const SelectiveScan& scan, const T* u, const T* dt, Block block,
                int64_t count, bool prefetch) {
  using S = Compute<T>;
  Vec<S> bias{}, skip{};
  if (scan.dt_bias) bias = load_lanes(static_cast<const S*>(scan.dt_bias) + block.first, block.count);
  if (scan.D) skip = load_lanes(static_cast<const S*>(scan.D) + block.first, block.count);
  for (int64_t t = 0; t < count; ++t, u += scan.u.time, dt += scan.dt.time) {
    const Vec<S> x = load_lanes(u, block.count), rate = softplus(load_lanes(dt, block.count) + bias);
    if (prefetch) __builtin_prefetch(u + kLanes<S>), __builtin_prefetch(dt + kLanes<S>);
    chunk.dt[t] = rate;
    chunk.dt_u[t] = rate * x;
    chunk.y[t] = scan.D ? skip * x : Vec<S>{};
  }
}

template <typename T>
void store_chunk(const Chunk<Compute<T>>& chunk, T* y, int64_t stride, Block block, int64_t count) {
  for (int64_t t = 0; t < count; ++t) store_lanes(y + t * stride, chunk.y[t], block.count);
}

template <Activation kind, typename T>
void store_gated(const Chunk<Compute<T>>& chunk, T* y, int64_t stride, const T* z, int64_t z_stride, Block block,
                 int64_t count, bool prefetch) {
  for (int64_t t = 0; t < count; ++t, y += stride, z += z_stride) {
    if (prefetch) __builtin_prefetch(z + kLanes<Compute<T>>);
    store_lanes(y, chunk.y[t] * Act<kind>::value(load_lanes(z, block.count)), block.count);
  }
}

template <typename T>
void scan_task(const SelectiveScan& scan, int64_t index) {
  using S = Compute<T>;
  using V = Vec<S>;
  const Task<S> task(scan, index);
  const int64_t N = scan.N, row = task.row, state_row = row * scan.channels * N;
  const int64_t vectors = 2 * task.count() * N, rows = 2 * kScanChunk * N;
  Scratch scratch(vectors * int64_t{sizeof(V)} + rows * int64_t{sizeof(S)} + int64_t{sizeof(Chunk<S>)} + 512);
  V* const A2 = scratch.take<V>(task.count() * N);
  V* const states = scratch.take<V>(task.count() * N);
  S* const B = scratch.take<S>(kScanChunk * N);
  S* const C = scratch.take<S>(kScanChunk * N);
  Chunk<S>& chunk = *scratch.take<Chunk<S>>(1);
  const S* const initial = scan.initial_state ? static_cast<const S*>(scan.initial_state) + state_row : nullptr;
  for (int64_t i = 0; i < task.count(); ++i) {
    gather_states<S>(A2 + i * N, static_cast<const S*>(scan.A), task.block(i), N, S(kLog2e));
    gather_states<S>(states + i * N, initial, task.block(i), N);
  }
  for (int64_t first = 0; first < scan.T; first += kScanChunk) {
    const int64_t count = scan.T - first < kScanChunk ? scan.T - first : kScanChunk;
    widen_rows<T>(B, scan.B, row, task.group, first, count, N);
    widen_rows<T>(C, scan.C, row, task.group, first, count, N);
    const bool any_reset = chunk_resets(chunk.resets, scan, row, first, count);
    for (int64_t i = 0; i < task.count(); ++i) {
      const Block block = task.block(i);
      const bool prefetch = i + 1 < task.count();
      V* const state = states + i * N;
      if (scan.kept) {
        S* to = static_cast<S*>(scan.kept) + (first / kScanChunk * scan.batch + row) * N * scan.channels + block.first;
        for (int64_t n = 0; n < N; ++n, to += scan.channels) store_lanes(to, state[n], block.count);
      }
      load_chunk<T>(chunk, scan, at<T>(scan.u, row, first) + block.first, at<T>(scan.dt, row, first) + block.first,
                    block, count, prefetch);
      if (any_reset) {
        recur_all<S, true>(chunk, count, A2 + i * N, state, B, C, N);
      } else {
        recur_all<S, false>(chunk, count, A2 + i * N, state, B, C, N);
      }
      T* const y = at<T>(scan.y, row, first) + block.first;
      if (!scan.z.data) {
        store_chunk<T>(chunk, y, scan.y.time, block, count);
      } else {
        const T* const z = at<T>(scan.z, row, first) + block.first;
        with_activation(scan.activation, [&]<Activation kind>() {
          store_gated<kind, T>(chunk, y, scan.y.time, z, scan.z.time, block, count, prefetch);
        });
      }
    }
  }
  for (int64_t i = 0; i < task.count(); ++i)
    scatter_states<S>(static_cast<S*>(scan.final_state) + state_row, states + i * N, task.block(i), N);
}

}  // namespace

void selective_scan_forward(const SelectiveScan& args, int64_t first_task, int64_t last_task) {
  with_element(args.element, [&]<typename T>() {
    for (int64_t task = first_task; task < last_task; ++task) scan_task<T>(args, task);
  });
}

}  // namespace hybridgen::HYBRIDGEN_ISA
