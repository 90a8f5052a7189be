// Mamba-2's scan, forward, in chunks of at most 16 tokens. Within a chunk tokens meet through the products of their B
// and C, made once per group; a head's state S (N, P) is read by C S and advanced by B^T x. The state lies in panels of
// two vectors of channels: 16 KB for N = 128, which stay in the first-level cache for a whole segment.
#include "ssd_chunk.h"

namespace hybridgen::HYBRIDGEN_ISA {

namespace {

constexpr int Q = kSsdChunk;

// A job's scratch memory.
template <typename Scalar>
struct Scratch {
  int64_t N, panels;
  Scalar* states;      // (heads, panels, N, kPanel)
  Scalar* B;           // (chunks, Q, N)
  Scalar* C;           // (chunks, N, Q)
  Scalar* scores;      // (chunks, Q, Q): B_s C_t
  Scalar* weights;     // (chunks, Q, Q): what token s's x counts for in y_t
  Scalar* from_start;  // (chunks, Q)
  Scalar* to_end;      // (chunks, Q): what token s's x counts for in the state after the chunk
  Scalar* x;           // (Q, kPanel)
  Scalar* scaled;      // (Q, kPanel)

  Scratch(Scalar* at, const SsdInputs& in) {
    N = (in.N + kTileRows - 1) / kTileRows * kTileRows;
    panels = (in.P + kPanel<Scalar> - 1) / kPanel<Scalar>;
    auto take = [&](int64_t size) { Scalar* taken = at; at += size; return taken; };
    states = take(kSsdHeads * head_size());
    B = take(in.chunks * Q * N);
    C = take(in.chunks * N * Q);
    scores = take(in.chunks * Q * Q);
    weights = take(in.chunks * Q * Q);
    from_start = take(in.chunks * Q);
    to_end = take(in.chunks * Q);
    x = take(Q * kPanel<Scalar>);
    scaled = take(Q * kPanel<Scalar>);
  }
  int64_t head_size() const { return panels * N * kPanel<Scalar>; }
};

// Copies B and C of a chunk, and makes their products.
template <typename T>
void prepare_group(
    const SsdInputs& in, const Scratch<Compute<T>>& scratch, int64_t row, int64_t group, const Chunk& chunk, int64_t c) {
  using Scalar = Compute<T>;
  const T* B = static_cast<const T*>(in.B) + row * in.B_batch + group * in.B_group + chunk.start * in.B_time;
  const T* C = static_cast<const T*>(in.C) + row * in.C_batch + group * in.C_group + chunk.start * in.C_time;
  Scalar *to_B = scratch.B + c * Q * scratch.N, *to_C = scratch.C + c * Q * scratch.N;
  copy_chunk(to_B, B, in.B_time, chunk.length, in.N, scratch.N);
  for (int t = 0; t < Q; ++t) {
    for (int64_t n = 0; n < scratch.N; ++n) {
      to_C[n * Q + t] = t < chunk.length && n < in.N ? widen(C[t * in.C_time + n]) : Scalar(0);
    }
  }
  chunk_products(scratch.scores + c * Q * Q, to_B, scratch.N, to_C, scratch.N);
}

// What depends on the head and the step sizes only.
template <typename Scalar>
void prepare_head(
    const SsdInputs& in, const Scratch<Scalar>& scratch, int64_t row, int64_t head, const Chunk& chunk, int64_t c) {
  Steps<Scalar> steps;
  step_sizes(in, row, head, chunk, steps);
  Scalar between[Q][Q];
  survivals(steps, chunk.length, between, scratch.from_start + c * Q);
  const Scalar* scores = scratch.scores + c * Q * Q;
  Scalar* weights = scratch.weights + c * Q * Q;
  for (int s = 0; s < chunk.length; ++s) {
    for (int t = 0; t < Q; ++t) weights[s * Q + t] = between[s][t] * scores[s * Q + t] * steps.dt[s];
    scratch.to_end[c * Q + s] = between[s][chunk.length - 1] * steps.dt[s];
  }
  for (int s = chunk.length; s < Q; ++s) {
    for (int t = 0; t < Q; ++t) weights[s * Q + t] = 0;
  }
}

// A chunk of one panel of a head: its y, then the state after it.
template <typename T>
void scan_chunk(
    const SsdForward& args, const Scratch<Compute<T>>& scratch, Compute<T>* state, int64_t row, int64_t head,
    int64_t channel, const Chunk& chunk, int64_t c) {
  using Scalar = Compute<T>;
  constexpr int width = kPanel<Scalar>, lanes = kLanes<Scalar>;
  const SsdInputs& in = args.in;
  const int64_t columns = in.P - channel < width ? in.P - channel : width;
  const T* x = static_cast<const T*>(in.x) + row * in.x_batch + chunk.start * in.x_time + head * in.x_head + channel;
  const Scalar *weights = scratch.weights + c * Q * Q, *from_start = scratch.from_start + c * Q;
  const Scalar* C = scratch.C + c * Q * scratch.N;
  Scalar D[width] = {};
  if (in.D) {
    const Scalar* from = static_cast<const Scalar*>(in.D) + head * in.D_head;
    for (int64_t p = 0; p < columns; ++p) D[p] = from[(channel + p) * in.D_channel];
  }
  copy_chunk(scratch.x, x, in.x_time, chunk.length, columns, width);
  T* y = static_cast<T*>(args.y) + ((row * in.T + chunk.start) * in.H + head) * in.P + channel;
  for (int t = 0; t < chunk.length; t += kTileRows) {
    Tile<Scalar> tile;
    clear(tile);
    if (!chunk.fresh) {
      multiply_add(tile, C + t, Q, state, width, scratch.N);
      scale_rows(tile, from_start + t);
    }
    multiply_add(tile, weights + t, Q, scratch.x, width, t);
    multiply_add_triangle<true>(tile, weights + t * Q + t, Q, scratch.x + t * width, width);
    if (in.D) {
#pragma GCC unroll 8
      for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < kTileVectors; ++v)
          tile.rows[r][v] += load(D + v * lanes) * load(scratch.x + (t + r) * width + v * lanes);
    }
    if (columns == width && chunk.length - t >= kTileRows) {
#pragma GCC unroll 8
      for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < kTileVectors; ++v) store(y + (t + r) * in.H * in.P + v * lanes, tile.rows[r][v]);
    } else {
      alignas(64) Scalar rows[kTileRows][width];
      __builtin_memcpy(rows, &tile, sizeof rows);
      for (int r = 0; r < kTileRows && t + r < chunk.length; ++r)
        for (int64_t p = 0; p < columns; ++p) narrow(rows[r][p], y[(t + r) * in.H * in.P + p]);
    }
  }
  for (int s = 0; s < chunk.length; ++s) {
    const Vec<Scalar> factor = splat<Scalar>(scratch.to_end[c * Q + s]);
#pragma GCC unroll 2
    for (int v = 0; v < kTileVectors; ++v)
      store(scratch.scaled + s * width + v * lanes, load(scratch.x + s * width + v * lanes) * factor);
  }
  update_panel(
      state, state, scratch.N, chunk.fresh, from_start[chunk.length - 1], scratch.B + c * Q * scratch.N, scratch.N,
      scratch.scaled, width, chunk.length);
}

// Between a state (P, N) of a tensor and the panels. Without an initial state the panels become zeros.
template <typename Scalar>
void load_state(const SsdInputs& in, const Scratch<Scalar>& scratch, Scalar* panels, int64_t index) {
  constexpr int width = kPanel<Scalar>;
  const Scalar* from = in.initial_state ? static_cast<const Scalar*>(in.initial_state) + index * in.P * in.N : nullptr;
  for (int64_t i = 0; i < scratch.head_size(); ++i) panels[i] = 0;
  if (!from) return;
  for (int64_t p = 0; p < in.P; ++p)
    for (int64_t n = 0; n < in.N; ++n)
      panels[(p / width * scratch.N + n) * width + p % width] = from[p * in.N + n];
}

template <typename Scalar>
void save_state(const SsdForward& args, const Scratch<Scalar>& scratch, const Scalar* panels, int64_t index) {
  constexpr int width = kPanel<Scalar>;
  const SsdInputs& in = args.in;
  Scalar* to = static_cast<Scalar*>(args.final_state) + index * in.P * in.N;
  for (int64_t p = 0; p < in.P; ++p)
    for (int64_t n = 0; n < in.N; ++n) to[p * in.N + n] = panels[(p / width * scratch.N + n) * width + p % width];
}

template <typename Scalar>
void keep_state(
    const SsdForward& args, const Scratch<Scalar>& scratch, const Scalar* panels, int64_t row, int64_t head, int64_t t) {
  constexpr int width = kPanel<Scalar>;
  const SsdInputs& in = args.in;
  const int64_t segments = (in.T + kSsdSegment - 1) / kSsdSegment;
  Scalar* to = static_cast<Scalar*>(args.kept) + ((row * segments + t / kSsdSegment) * in.H + head) * in.N * in.P;
  for (int64_t n = 0; n < in.N; ++n)
    for (int64_t p = 0; p < in.P; p += width) {
      const int64_t columns = in.P - p < width ? in.P - p : width;
      copy_row(to + n * in.P + p, panels + (p / width * scratch.N + n) * width, columns, 0);
    }
}

// Heads of one group, at most kSsdHeads, over all tokens.
template <typename T>
void scan_heads(const SsdForward& args, const Scratch<Compute<T>>& scratch, int64_t row, int64_t first, int64_t last) {
  using Scalar = Compute<T>;
  const SsdInputs& in = args.in;
  const int64_t group = first / (in.H / in.G);
  for (int64_t head = first; head < last; ++head)
    load_state(in, scratch, scratch.states + (head - first) * scratch.head_size(), row * in.H + head);
  Chunk chunks[kSsdSegment];
  for (int64_t t = 0; t < in.T; t += kSsdSegment) {
    const int64_t count = plan_chunks(in, row, t, chunks);
    for (int64_t c = 0; c < count; ++c) prepare_group<T>(in, scratch, row, group, chunks[c], c);
    for (int64_t head = first; head < last; ++head) {
      Scalar* state = scratch.states + (head - first) * scratch.head_size();
      if (args.kept) keep_state(args, scratch, state, row, head, t);
      for (int64_t c = 0; c < count; ++c) prepare_head(in, scratch, row, head, chunks[c], c);
      for (int64_t panel = 0; panel < scratch.panels; ++panel, state += scratch.N * kPanel<Scalar>)
        for (int64_t c = 0; c < count; ++c)
          scan_chunk<T>(args, scratch, state, row, head, panel * kPanel<Scalar>, chunks[c], c);
    }
  }
  for (int64_t head = first; head < last; ++head)
    save_state(args, scratch, scratch.states + (head - first) * scratch.head_size(), row * in.H + head);
}

template <typename T>
void run_job(const SsdForward& args, int64_t job) {
  using Scalar = Compute<T>;
  const SsdInputs& in = args.in;
  const Scratch<Scalar> scratch(static_cast<Scalar*>(args.scratch) + job * args.scratch_size, in);
  const int64_t heads = in.H / in.G, slice = job % in.slices, group = job / in.slices % in.G;
  const int64_t row = job / in.slices / in.G;
  const int64_t last = group * heads + heads * (slice + 1) / in.slices;
  for (int64_t head = group * heads + heads * slice / in.slices; head < last; head += kSsdHeads)
    scan_heads<T>(args, scratch, row, head, last - head < kSsdHeads ? last : head + kSsdHeads);
}

}  // namespace

void ssd_forward(const SsdForward& args, int64_t first_job, int64_t last_job) {
  with_element(args.in.element, [&]<typename T>() {
    for (int64_t job = first_job; job < last_job; ++job) run_job<T>(args, job);
  });
}

}  // namespace hybridgen::HYBRIDGEN_ISA
