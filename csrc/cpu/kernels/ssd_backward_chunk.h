// The gradient of one chunk of Mamba-2's scan, and the states that it needs.
//
// Per chunk, with S the state before it, G the gradient of the state after it, v_s = dt_s x_s, M_ts what is left of
// token s at token t, f_t and e_s what is left of S at t and of s at the end:
//   dv_s = e_s B_s G + sum over t >= s of M_ts (B_s C_t) dy_t
//   dC_t = f_t S dy_t + sum over s <= t of M_ts (dy_t v_s) B_s
//   dB_s = e_s G v_s + sum over t >= s of M_ts (dy_t v_s) C_t
//   dS = f_last G + sum over t of f_t C_t dy_t
// and the gradient of log(decay_t) is everything that crosses t: S or s < t to t' >= t or G. G is kept in both layouts,
#pragma once

#include "ssd_chunk.h"

namespace hybridgen::HYBRIDGEN_ISA {

constexpr int Q = kSsdChunk;

// A job's scratch memory.
template <typename Scalar>
struct Scratch {
  int64_t N, P, size;     // N and P padded to panels; their product
  Scalar* gradients;      // (heads, 2, size): G as (P panels, N, kPanel) and as (N panels, P, kPanel)
  Scalar* states;         // (chunks, size), as (N panels, P, kPanel)
  Scalar *B, *C;          // (chunks, Q, N)
  Scalar *B_T, *C_T;      // (chunks, N, Q)
  Scalar* scores;         // (chunks, Q, Q): B_s C_t
  Scalar *x, *v, *dy;     // (Q, P)
  Scalar* scaled;         // (Q, P): e_s v_s, f_t dy_t
  Scalar *v_T, *dy_T;     // (P, Q)
  Scalar *products;       // (Q, Q): v_s dy_t
  Scalar *z, *z_T;        // (s, t) and (t, s): M_ts (v_s dy_t)
  Scalar* weights_T;      // (t, s): M_ts (B_s C_t)
  Scalar* pairs_T;        // (t, s): M_ts (B_s C_t) (v_s dy_t)
  Scalar *from_S, *to_G, *of_dt;  // (Q, lanes): sums over lanes to be, per token

  Scratch(Scalar* at, const SsdInputs& in) {
    constexpr int width = kPanel<Scalar>;
    N = (in.N + width - 1) / width * width;
    P = (in.P + width - 1) / width * width;
    size = N * P;
    auto take = [&](int64_t count) { Scalar* taken = at; at += count; return taken; };
    gradients = take(2 * kSsdBackwardHeads * size);
    states = take(in.chunks * size);
    B = take(in.chunks * Q * N), C = take(in.chunks * Q * N);
    B_T = take(in.chunks * Q * N), C_T = take(in.chunks * Q * N);
    scores = take(in.chunks * Q * Q);
    x = take(Q * P), v = take(Q * P), dy = take(Q * P), scaled = take(Q * P), v_T = take(Q * P), dy_T = take(Q * P);
    products = take(Q * Q), z = take(Q * Q), z_T = take(Q * Q), weights_T = take(Q * Q), pairs_T = take(Q * Q);
    constexpr int64_t sums = Q * kLanes<Scalar>;
    from_S = take(sums), to_G = take(sums), of_dt = take(sums);
  }
};

// Where one chunk of one head stands.
template <typename Scalar>
struct Place {
  int64_t row, head, group, c;
  Chunk chunk;
  Scalar *G_channels, *G_states;  // (P panels, N, kPanel), (N panels, P, kPanel)
  Scalar *dB, *dC;                // of the chunk's first token
  bool add;                       // whether another head has written dB and dC
};

template <typename T>
void prepare_group(
    const SsdInputs& in, const Scratch<Compute<T>>& scratch, int64_t row, int64_t group, const Chunk& chunk, int64_t c) {
  const T* B = static_cast<const T*>(in.B) + row * in.B_batch + group * in.B_group + chunk.start * in.B_time;
  const T* C = static_cast<const T*>(in.C) + row * in.C_batch + group * in.C_group + chunk.start * in.C_time;
  const int64_t at = c * Q * scratch.N;
  copy_chunk(scratch.B + at, B, in.B_time, chunk.length, in.N, scratch.N);
  copy_chunk(scratch.C + at, C, in.C_time, chunk.length, in.N, scratch.N);
  transpose_chunk(scratch.B_T + at, scratch.B + at, scratch.N);
  transpose_chunk(scratch.C_T + at, scratch.C + at, scratch.N);
  chunk_products(scratch.scores + c * Q * Q, scratch.B + at, scratch.N, scratch.C_T + at, scratch.N);
}

template <typename T>
const T* x_of(const SsdInputs& in, int64_t row, int64_t head, const Chunk& chunk) {
  return static_cast<const T*>(in.x) + row * in.x_batch + chunk.start * in.x_time + head * in.x_head;
}

template <typename Scalar>
void multiply_rows(Scalar* to, const Scalar* from, const Scalar* factors, int64_t columns) {
  for (int t = 0; t < Q; ++t)
    for (int64_t p = 0; p < columns; ++p) to[t * columns + p] = from[t * columns + p] * factors[t];
}

// The states before the segment's chunks, from the one before the segment. A chunk that begins afresh needs none.
template <typename T>
void recompute_states(
    const SsdBackward& args, const Scratch<Compute<T>>& scratch, int64_t row, int64_t head, int64_t t,
    const Chunk* chunks, int64_t count) {
  using Scalar = Compute<T>;
  constexpr int width = kPanel<Scalar>;
  const SsdInputs& in = args.in;
  const int64_t segments = (in.T + kSsdSegment - 1) / kSsdSegment, N = scratch.N, P = scratch.P;
  if (!chunks[0].fresh) {
    const Scalar* kept =
        static_cast<const Scalar*>(args.kept) + ((row * segments + t / kSsdSegment) * in.H + head) * in.N * in.P;
    for (int64_t n = 0; n < N; n += width)
      for (int64_t p = 0; p < P; ++p)
        for (int64_t i = 0; i < width; ++i)
          scratch.states[n * P + p * width + i] = n + i < in.N && p < in.P ? kept[(n + i) * in.P + p] : Scalar(0);
  }
  for (int64_t c = 0; c + 1 < count; ++c) {
    if (chunks[c + 1].fresh) continue;
    Steps<Scalar> steps;
    step_sizes(in, row, head, chunks[c], steps);
    const int last = chunks[c].length - 1;
    Scalar to_end[Q] = {}, left = 1;
    for (int s = last; s >= 0; left *= steps.decay[s--]) to_end[s] = left * steps.dt[s];
    copy_chunk(scratch.x, x_of<T>(in, row, head, chunks[c]), in.x_time, chunks[c].length, in.P, P);
    multiply_rows(scratch.scaled, scratch.x, to_end, P);
    for (int64_t n = 0; n < N; n += width) {
      const Scalar* from = scratch.states + c * scratch.size + n * P;
      update_panel(
          scratch.states + (c + 1) * scratch.size + n * P, from, P, chunks[c].fresh, left, scratch.scaled, P,
          scratch.B + c * Q * N + n, N, last + 1);
    }
  }
}

// Rows of a tile to a tensor, as far as the tensor goes: stored, or added.
template <typename T>
void put_rows(
    T* to, int64_t stride, const Tile<Compute<T>>& tile, int64_t rows, int64_t columns, bool add) {
  using Scalar = Compute<T>;
  constexpr int width = kPanel<Scalar>, lanes = kLanes<Scalar>;
  alignas(64) Scalar values[kTileRows][width];
  __builtin_memcpy(values, &tile, sizeof values);
  for (int r = 0; r < kTileRows && r < rows; ++r, to += stride) {
    if (columns >= width) {
      for (int v = 0; v < width; v += lanes) {
        const Vec<Scalar> value = load(values[r] + v);
        store(to + v, add ? load(to + v) + value : value);
      }
    } else {
      for (int64_t i = 0; i < columns; ++i) narrow(add ? widen(to[i]) + values[r][i] : values[r][i], to[i]);
    }
  }
}

// sums[r] += tile[r] * rows[r], lane by lane.
template <typename Scalar>
void add_lanes(Scalar* sums, const Tile<Scalar>& tile, const Scalar* rows, int64_t stride) {
  constexpr int lanes = kLanes<Scalar>;
  for (int r = 0; r < kTileRows; ++r) {
    Vec<Scalar> total = load(sums + r * lanes);
    for (int v = 0; v < kTileVectors; ++v) total += tile.rows[r][v] * load(rows + r * stride + v * lanes);
    store(sums + r * lanes, total);
  }
}

// tile of tokens s += sum over t >= s of left[t, s] right[t]. Rows behind the chunk's end are zeros.
template <typename Scalar>
inline __attribute__((always_inline)) void add_later(
    Tile<Scalar>& tile, const Scalar* left, const Scalar* right, int64_t stride, int s, int length) {
  multiply_add_triangle<false>(tile, left + s * Q + s, Q, right + s * stride, stride);
  const int next = s + kTileRows;
  if (next < length) multiply_add(tile, left + next * Q + s, Q, right + next * stride, stride, length - next);
}

// dx, dD, and the part of ddt that comes through v.
template <typename T>
void gradient_of_x(
    const SsdBackward& args, const Scratch<Compute<T>>& scratch, const Place<Compute<T>>& place, const Compute<T>* dt,
    const Compute<T>* to_end) {
  using Scalar = Compute<T>;
  constexpr int width = kPanel<Scalar>, lanes = kLanes<Scalar>;
  const SsdInputs& in = args.in;
  const int length = place.chunk.length;
  const int64_t P = scratch.P, index = (place.row * in.T + place.chunk.start) * in.H + place.head;
  Scalar* dD = static_cast<Scalar*>(args.dD) + (place.row * in.H + place.head) * in.P;
  for (int64_t p = 0; p < P; p += width) {
    const int64_t columns = in.P - p < width ? in.P - p : width;
    Scalar D[width] = {};
    if (in.D) {
      const Scalar* from = static_cast<const Scalar*>(in.D) + place.head * in.D_head;
      for (int64_t i = 0; i < columns; ++i) D[i] = from[(p + i) * in.D_channel];
    }
    Scalar skipped[width] = {};
    for (int t = 0; t < length; ++t)
      for (int i = 0; i < width; ++i) skipped[i] += scratch.dy[t * P + p + i] * scratch.x[t * P + p + i];
    for (int64_t i = 0; i < columns; ++i) dD[p + i] += skipped[i];
    for (int s = 0; s < length; s += kTileRows) {
      Tile<Scalar> tile;
      clear(tile);
      multiply_add(tile, scratch.B_T + place.c * Q * scratch.N + s, Q, place.G_channels + p * scratch.N, width, scratch.N);
      scale_rows(tile, to_end + s);
      add_later(tile, scratch.weights_T, scratch.dy + p, P, s, length);
      add_lanes(scratch.of_dt + s * lanes, tile, scratch.x + s * P + p, P);
      for (int r = 0; r < kTileRows; ++r)
        for (int v = 0; v < kTileVectors; ++v)
          tile.rows[r][v] =
              tile.rows[r][v] * splat<Scalar>(dt[s + r]) + load(D + v * lanes) * load(scratch.dy + (s + r) * P + p + v * lanes);
      put_rows(static_cast<T*>(args.dx) + (index + s * in.H) * in.P + p, in.H * in.P, tile, length - s, columns, false);
    }
  }
}

// dB and dC, and what they say about the decays: the parts that come from S and go to G, per token.
template <typename Scalar>
void gradient_of_B_and_C(
    const SsdInputs& in, const Scratch<Scalar>& scratch, const Place<Scalar>& place, const Scalar* from_start,
    const Scalar* to_end) {
  constexpr int width = kPanel<Scalar>, lanes = kLanes<Scalar>;
  const int length = place.chunk.length;
  const int64_t N = scratch.N, P = scratch.P, stride = in.G * in.N;
  const Scalar *B = scratch.B + place.c * Q * N, *C = scratch.C + place.c * Q * N;
  for (int64_t n = 0; n < in.N; n += width) {
    const int64_t columns = in.N - n;
    for (int t = 0; t < length; t += kTileRows) {
      Tile<Scalar> tile;
      clear(tile);
      if (!place.chunk.fresh) {
        multiply_add(tile, scratch.dy_T + t, Q, scratch.states + place.c * scratch.size + n * P, width, P);
        scale_rows(tile, from_start + t);
        add_lanes(scratch.from_S + t * lanes, tile, C + t * N + n, N);
      }
      multiply_add(tile, scratch.z + t, Q, B + n, N, t);
      multiply_add_triangle<true>(tile, scratch.z + t * Q + t, Q, B + t * N + n, N);
      put_rows(place.dC + t * stride + n, stride, tile, length - t, columns, place.add);
    }
    for (int s = 0; s < length; s += kTileRows) {
      Tile<Scalar> tile;
      clear(tile);
      multiply_add(tile, scratch.v_T + s, Q, place.G_states + n * P, width, P);
      scale_rows(tile, to_end + s);
      add_lanes(scratch.to_G + s * lanes, tile, B + s * N + n, N);
      add_later(tile, scratch.z_T, C + n, N, s, length);
      put_rows(place.dB + s * stride + n, stride, tile, length - s, columns, place.add);
    }
  }
}

// G becomes the gradient of the state before the chunk; returns what of it went straight through, times that state.
template <typename Scalar>
Scalar pass_through(const Scratch<Scalar>& scratch, const Place<Scalar>& place, const Scalar* from_start) {
  constexpr int width = kPanel<Scalar>, lanes = kLanes<Scalar>;
  const int64_t N = scratch.N, P = scratch.P;
  if (place.chunk.fresh) {
    for (int64_t i = 0; i < scratch.size; ++i) place.G_channels[i] = place.G_states[i] = 0;
    return 0;
  }
  const Scalar* state = scratch.states + place.c * scratch.size;
  Vec<Scalar> sums[2] = {};
  for (int64_t i = 0; i < scratch.size; i += width)
    for (int v = 0; v < 2; ++v) sums[v] += load(state + i + v * lanes) * load(place.G_states + i + v * lanes);
  const int length = place.chunk.length;
  const Scalar keep = from_start[length - 1];
  const Scalar* C = scratch.C + place.c * Q * N;
  multiply_rows(scratch.scaled, scratch.dy, from_start, P);
  for (int64_t p = 0; p < P; p += width)
    update_panel(
        place.G_channels + p * N, place.G_channels + p * N, N, false, keep, C, N, scratch.scaled + p, P, length);
  for (int64_t n = 0; n < N; n += width)
    update_panel(place.G_states + n * P, place.G_states + n * P, P, false, keep, scratch.scaled, P, C + n, N, length);
  return keep * sum_by_halves<Scalar>(sums[0] + sums[1]);
}

// ddt and dA from the gradients of the logarithms of the decays and of v.
template <typename Scalar>
void gradient_of_dt(
    const SsdBackward& args, const Scratch<Scalar>& scratch, const Place<Scalar>& place, const Steps<Scalar>& steps,
    Scalar through) {
  constexpr int lanes = kLanes<Scalar>;
  const SsdInputs& in = args.in;
  const int length = place.chunk.length;
  const Scalar A = static_cast<const Scalar*>(in.A)[place.head];
  Scalar* dA = static_cast<Scalar*>(args.dA) + place.row * in.H + place.head;
  Scalar* ddt = static_cast<Scalar*>(args.ddt) + (place.row * in.T + place.chunk.start) * in.H + place.head;
  Scalar to_G[Q + 1] = {}, crossing[Q] = {}, from_S = 0, total = 0;
  for (int s = 0; s < length; ++s) to_G[s + 1] = to_G[s] + sum_by_halves<Scalar>(load(scratch.to_G + s * lanes));
  alignas(64) Scalar inputs[Q], slope[Q];
  for (int t = 0; t < Q; t += lanes) {
    const Vec<Scalar> dt = load(steps.dt + t), raw = load(steps.raw + t), step = softplus(raw);
    const Vec<Scalar> inside = raw > 20 ? splat<Scalar>(1) : sigmoid(raw);
    const Vec<Scalar> low = step < static_cast<Scalar>(in.dt_min) ? Vec<Scalar>{} : inside;
    store(slope + t, step > static_cast<Scalar>(in.dt_max) ? Vec<Scalar>{} : low);
    store(inputs + t, dt);
  }
  for (int t = length - 1; t >= 0; --t) {
    from_S += sum_by_halves<Scalar>(load(scratch.from_S + t * lanes));
    Scalar log_decay = from_S + to_G[t] + through;
    for (int s = 0; s < Q; ++s) crossing[s] += scratch.pairs_T[t * Q + s];
    for (int s = 0; s < t; ++s) log_decay += crossing[s];
    total += log_decay * inputs[t];
    ddt[t * in.H] = (log_decay * A + sum_by_halves<Scalar>(load(scratch.of_dt + t * lanes))) * slope[t];
  }
  *dA += total;
}

template <typename T>
void chunk_gradient(const SsdBackward& args, const Scratch<Compute<T>>& scratch, const Place<Compute<T>>& place) {
  using Scalar = Compute<T>;
  const SsdInputs& in = args.in;
  const int length = place.chunk.length;
  const int64_t P = scratch.P;
  Steps<Scalar> steps;
  step_sizes(in, place.row, place.head, place.chunk, steps);
  Scalar between[Q][Q] = {}, from_start[Q], to_end[Q];
  survivals(steps, length, between, from_start);
  for (int s = 0; s < Q; ++s) to_end[s] = between[s][length - 1];

  const T* dy = static_cast<const T*>(args.dy) + place.row * args.dy_batch + place.chunk.start * args.dy_time +
                place.head * args.dy_head;
  copy_chunk(scratch.x, x_of<T>(in, place.row, place.head, place.chunk), in.x_time, length, in.P, P);
  copy_chunk(scratch.dy, dy, args.dy_time, length, in.P, P);
  multiply_rows(scratch.v, scratch.x, steps.dt, P);
  transpose_chunk(scratch.v_T, scratch.v, P);
  transpose_chunk(scratch.dy_T, scratch.dy, P);
  chunk_products(scratch.products, scratch.v, P, scratch.dy_T, P);
  const Scalar* scores = scratch.scores + place.c * Q * Q;
  for (int s = 0; s < Q; ++s) {
    for (int t = 0; t < Q; ++t) {
      // Only what flows forward in time may count, even where the rest is not finite.
      const bool counts = s <= t && t < length;
      const Scalar weight = counts ? between[s][t] * scores[s * Q + t] : Scalar(0);
      const Scalar product = counts ? scratch.products[s * Q + t] : Scalar(0);
      scratch.z[s * Q + t] = scratch.z_T[t * Q + s] = between[s][t] * product;
      scratch.weights_T[t * Q + s] = weight;
      scratch.pairs_T[t * Q + s] = weight * product;
    }
  }
  for (int i = 0; i < Q * kLanes<Scalar>; ++i) scratch.from_S[i] = scratch.to_G[i] = scratch.of_dt[i] = 0;
  gradient_of_x<T>(args, scratch, place, steps.dt, to_end);
  gradient_of_B_and_C(in, scratch, place, from_start, to_end);
  const Scalar through = pass_through(scratch, place, from_start);
  gradient_of_dt(args, scratch, place, steps, through);
}

}  // namespace hybridgen::HYBRIDGEN_ISA
