// The gradient of Mamba-1's selective scan. The last chunk comes first: from the state before it, its decays and states
// are computed again into the cache, a few of the N at a time, and the gradient then goes back through them.
#include "selective_scan_common.h"

namespace hybridgen::HYBRIDGEN_ISA {

namespace {

constexpr double kLn2 = 0.69314718055994530942;

// One chunk of one block of channels.
template <typename S>
struct Chunk {
  Vec<S> dt[kScanChunk], dt_u[kScanChunk], grad_y[kScanChunk], y[kScanChunk];
  Vec<S> grad_dt_u[kScanChunk];  // of the product dt u
  Vec<S> grad_dt[kScanChunk];    // of dt in the decays, divided by ln 2
  Vec<S> u[kScanChunk], slope[kScanChunk], grad_z[kScanChunk];
  uint8_t resets[kScanChunk];
};

// What all chunks and blocks of one task share. A2 is A log2(e).
template <typename S>
struct Work {
  Vec<S>*A2, *grad_A, *carry;       // (blocks, N): of h, what flows from the tokens behind
  Vec<S>*grad_D, *grad_bias;        // (blocks)
  Vec<S>*grad_B, *grad_C;           // (chunk, N), sums over the task's blocks, lane by lane
  S *B, *C;                         // (chunk, N)
  Chunk<S>* chunk;

  static int64_t bytes(int64_t blocks, int64_t N) {
    const int64_t rows = 2 * kScanChunk * N, vectors = blocks * (3 * N + 2) + rows;
    return vectors * int64_t{sizeof(Vec<S>)} + rows * int64_t{sizeof(S)} + int64_t{sizeof(Chunk<S>)} + 1024;
  }
  Work(Scratch& scratch, int64_t blocks, int64_t N) {
    A2 = scratch.take<Vec<S>>(blocks * N);
    grad_A = scratch.take<Vec<S>>(blocks * N);
    carry = scratch.take<Vec<S>>(blocks * N);
    grad_D = scratch.take<Vec<S>>(blocks);
    grad_bias = scratch.take<Vec<S>>(blocks);
    grad_B = scratch.take<Vec<S>>(kScanChunk * N);
    grad_C = scratch.take<Vec<S>>(kScanChunk * N);
    B = scratch.take<S>(kScanChunk * N);
    C = scratch.take<S>(kScanChunk * N);
    chunk = scratch.take<Chunk<S>>(1);
    for (int64_t i = 0; i < blocks * N; ++i) grad_A[i] = Vec<S>{};
    for (int64_t i = 0; i < blocks; ++i) grad_D[i] = grad_bias[i] = Vec<S>{};
    for (int64_t i = 0; i < kScanChunk * N; ++i) grad_B[i] = grad_C[i] = Vec<S>{};
  }
};

// The states n to n + K of one block: forward from `before`, then back.
template <typename S, int K, bool with_resets>
void recur(const Work<S>& work, int64_t count, int64_t block, int64_t n, const Vec<S>* before, int64_t N) {
  using V = Vec<S>;
  Chunk<S>& chunk = *work.chunk;
  const V* const A2 = work.A2 + block * N + n;
  V decays[kScanChunk][K], states[kScanChunk + 1][K];
  V a[K], h[K];
  for (int k = 0; k < K; ++k) a[k] = A2[k], states[0][k] = h[k] = before[k];
  const S *B = work.B + n, *C = work.C + n;
  for (int64_t t = 0; t < count; ++t, B += N, C += N) {
    if (with_resets && chunk.resets[t])
      for (int k = 0; k < K; ++k) h[k] = V{};
    const V dt = chunk.dt[t], dt_u = chunk.dt_u[t];
    V y = chunk.y[t];
    for (int k = 0; k < K; ++k) {
      const V decay = decay_exp2(dt * a[k]);
      h[k] = decay * h[k] + dt_u * B[k];
      decays[t][k] = decay;
      states[t + 1][k] = h[k];
      y += h[k] * C[k];
    }
    chunk.y[t] = y;
  }

  V* const grad_A = work.grad_A + block * N + n;
  V* const after = work.carry + block * N + n;
  V carry[K], sum_A[K];
  for (int k = 0; k < K; ++k) carry[k] = after[k], sum_A[k] = grad_A[k];
  for (int64_t t = count - 1; t >= 0; --t) {
    B -= N, C -= N;
    V* const grad_B = work.grad_B + t * N + n;
    V* const grad_C = work.grad_C + t * N + n;
    const V dt = chunk.dt[t], dt_u = chunk.dt_u[t], grad_y = chunk.grad_y[t];
    V grad_dt_u = chunk.grad_dt_u[t], grad_dt = chunk.grad_dt[t];
    for (int k = 0; k < K; ++k) {
      const V g = carry[k] + grad_y * C[k];
      grad_C[k] += grad_y * states[t + 1][k];
      grad_B[k] += g * dt_u;
      grad_dt_u += g * B[k];
      carry[k] = g * decays[t][k];
      if (with_resets && chunk.resets[t]) {
        carry[k] = V{};
        continue;
      }
      const V grad_exponent = carry[k] * states[t][k];
      sum_A[k] += grad_exponent * dt;
      grad_dt += grad_exponent * a[k];
    }
    chunk.grad_dt_u[t] = grad_dt_u;
    chunk.grad_dt[t] = grad_dt;
  }
  for (int k = 0; k < K; ++k) after[k] = carry[k], grad_A[k] = sum_A[k];
}

template <typename S, bool with_resets>
void recur_all(const Work<S>& work, int64_t count, int64_t index, Block block, const S* kept, int64_t channels,
               int64_t N) {
  Vec<S> before[kStates];
  int64_t n = 0;
  for (; n + kStates <= N; n += kStates) {
    for (int k = 0; k < kStates; ++k) before[k] = load_lanes(kept + (n + k) * channels, block.count);
    recur<S, kStates, with_resets>(work, count, index, n, before, N);
  }
  for (; n < N; ++n) {
    before[0] = load_lanes(kept + n * channels, block.count);
    recur<S, 1, with_resets>(work, count, index, n, before, N);
  }
}

template <Activation kind, typename T>
void load_gate(Chunk<Compute<T>>& chunk, const T* z, int64_t stride, Block block, int64_t count) {
  for (int64_t t = 0; t < count; ++t, z += stride) {
    const auto gate = Act<kind>::both(load_lanes(z, block.count));
    chunk.grad_z[t] = chunk.grad_y[t] * gate.slope;
    chunk.grad_y[t] *= gate.value;
  }
}

template <typename T>
void load_chunk(Chunk<Compute<T>>& chunk, const SelectiveScanBackward& args, int64_t row, int64_t first, Block block,
                int64_t count) {
  using S = Compute<T>;
  using V = Vec<S>;
  const SelectiveScan& scan = args.scan;
  V bias{}, skip{};
  if (scan.dt_bias) bias = load_lanes(static_cast<const S*>(scan.dt_bias) + block.first, block.count);
  if (scan.D) skip = load_lanes(static_cast<const S*>(scan.D) + block.first, block.count);
  const T* const u = at<T>(scan.u, row, first) + block.first;
  const T* const dt = at<T>(scan.dt, row, first) + block.first;
  const T* const grad_y = at<T>(args.grad_y, row, first) + block.first;
  for (int64_t t = 0; t < count; ++t) {
    const V x = load_lanes(u + t * scan.u.time, block.count);
    const auto rate = softplus_both(load_lanes(dt + t * scan.dt.time, block.count) + bias);
    chunk.u[t] = x;
    chunk.dt[t] = rate.value;
    chunk.slope[t] = rate.slope;
    chunk.dt_u[t] = rate.value * x;
    chunk.y[t] = scan.D ? skip * x : V{};
    chunk.grad_y[t] = load_lanes(grad_y + t * args.grad_y.time, block.count);
    chunk.grad_dt_u[t] = chunk.grad_dt[t] = V{};
  }
  if (scan.z.data) {
    const T* const z = at<T>(scan.z, row, first) + block.first;
    with_activation(scan.activation, [&]<Activation kind>() {
      load_gate<kind, T>(chunk, z, scan.z.time, block, count);
    });
  }
}

template <typename T>
void store_chunk(const Work<Compute<T>>& work, const SelectiveScanBackward& args, int64_t row, int64_t first,
                 int64_t index, Block block, int64_t count) {
  using S = Compute<T>;
  using V = Vec<S>;
  const Chunk<S>& chunk = *work.chunk;
  const S* const D = static_cast<const S*>(args.scan.D);
  const V skip = D ? load_lanes(D + block.first, block.count) : V{};
  V sum_D{}, sum_bias{};
  for (int64_t t = 0; t < count; ++t) {
    V grad_u = chunk.grad_dt_u[t] * chunk.dt[t];
    if (D) grad_u += skip * chunk.grad_y[t];
    const V grad_dt = (chunk.grad_dt_u[t] * chunk.u[t] + chunk.grad_dt[t] * S(kLn2)) * chunk.slope[t];
    store_lanes(at<T>(args.grad_u, row, first + t) + block.first, grad_u, block.count);
    store_lanes(at<T>(args.grad_dt, row, first + t) + block.first, grad_dt, block.count);
    if (args.scan.z.data)
      store_lanes(at<T>(args.grad_z, row, first + t) + block.first, chunk.grad_z[t] * chunk.y[t], block.count);
    sum_D += chunk.grad_y[t] * chunk.u[t];
    sum_bias += grad_dt;
  }
  work.grad_D[index] += sum_D;
  work.grad_bias[index] += sum_bias;
}

// Adds up the lanes of the chunk's `count` rows of N sums, and clears them.
template <typename S>
void store_sums(Vec<S>* sums, const Sequence& to, int64_t row, int64_t group, int64_t first, int64_t count, int64_t N) {
  constexpr int lanes = kLanes<S>;
  for (int64_t i = 0; i < count * N; i += lanes) {
    const int part = static_cast<int>(count * N - i < lanes ? count * N - i : lanes);
    Vec<S> rows[lanes] = {};
    for (int k = 0; k < part; ++k) rows[k] = sums[i + k], sums[i + k] = Vec<S>{};
    const Vec<S> total = row_sums<S>(rows);
    for (int k = 0; k < part; ++k) at<S>(to, row, first + (i + k) / N, group)[(i + k) % N] = total[k];
  }
}

template <typename T>
void task_backward(const SelectiveScanBackward& args, int64_t index) {
  using S = Compute<T>;
  const SelectiveScan& scan = args.scan;
  const Task<S> task(scan, index);
  const int64_t N = scan.N, row = task.row, channels = scan.channels, part = index % scan.splits * scan.batch + row;
  Scratch scratch(Work<S>::bytes(task.count(), N));
  const Work<S> work(scratch, task.count(), N);
  const S* const final_row =
      args.grad_final ? static_cast<const S*>(args.grad_final) + row * channels * N : nullptr;
  for (int64_t i = 0; i < task.count(); ++i) {
    gather_states<S>(work.A2 + i * N, static_cast<const S*>(scan.A), task.block(i), N, S(kLog2e));
    gather_states<S>(work.carry + i * N, final_row, task.block(i), N);
  }
  for (int64_t number = (scan.T + kScanChunk - 1) / kScanChunk - 1; number >= 0; --number) {
    const int64_t first = number * kScanChunk, count = scan.T - first < kScanChunk ? scan.T - first : kScanChunk;
    widen_rows<T>(work.B, scan.B, row, task.group, first, count, N);
    widen_rows<T>(work.C, scan.C, row, task.group, first, count, N);
    const bool any_reset = chunk_resets(work.chunk->resets, scan, row, first, count);
    for (int64_t i = 0; i < task.count(); ++i) {
      const Block block = task.block(i);
      const S* const kept = static_cast<const S*>(scan.kept) + (number * scan.batch + row) * N * channels + block.first;
      load_chunk<T>(*work.chunk, args, row, first, block, count);
      if (any_reset) {
        recur_all<S, true>(work, count, i, block, kept, channels, N);
      } else {
        recur_all<S, false>(work, count, i, block, kept, channels, N);
      }
      store_chunk<T>(work, args, row, first, i, block, count);
    }
    store_sums<S>(work.grad_B, args.grad_B, part, task.group, first, count, N);
    store_sums<S>(work.grad_C, args.grad_C, part, task.group, first, count, N);
  }
  for (int64_t i = 0; i < task.count(); ++i) {
    const Block block = task.block(i);
    scatter_states<S>(static_cast<S*>(args.grad_initial) + row * channels * N, work.carry + i * N, block, N);
    S* const grad_A = static_cast<S*>(args.grad_A) + row * N * channels + block.first;
    for (int64_t n = 0; n < N; ++n) store_lanes(grad_A + n * channels, work.grad_A[i * N + n], block.count);
    store_lanes(static_cast<S*>(args.grad_D) + row * channels + block.first, work.grad_D[i], block.count);
    store_lanes(static_cast<S*>(args.grad_bias) + row * channels + block.first, work.grad_bias[i], block.count);
  }
}

}  // namespace

void selective_scan_backward(const SelectiveScanBackward& args, int64_t first_task, int64_t last_task) {
  with_element(args.scan.element, [&]<typename T>() {
    for (int64_t task = first_task; task < last_task; ++task) task_backward<T>(args, task);
  });
}

}  // namespace hybridgen::HYBRIDGEN_ISA
