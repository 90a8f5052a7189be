// What the kernels of Mamba-2's scan share: small matrix products in registers, step sizes, decays, chunks.
#pragma once

#include "../ssd.h"
#include "elementary.h"

namespace hybridgen::HYBRIDGEN_ISA {

// A tile of a matrix product: kTileRows rows of kTileVectors vectors, as many as the registers hold.
#if defined(__AVX512F__)
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 4;
#endif
constexpr int kTileVectors = 2;
// The columns of a tile, and of a panel: the part of a matrix that is stored and used together.
template <typename Scalar>
constexpr int kPanel = kTileVectors * kLanes<Scalar>;

template <typename Scalar>
struct Tile {
  Vec<Scalar> rows[kTileRows][kTileVectors];
};

template <typename Scalar>
static inline __attribute__((always_inline)) void clear(Tile<Scalar>& tile) {
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kTileVectors; ++v) tile.rows[r][v] = Vec<Scalar>{};
}

// tile[r] += sum over k < depth of left[k, r] right[k].
template <typename Scalar>
static inline __attribute__((always_inline)) void multiply_add(
    Tile<Scalar>& tile, const Scalar* left, int64_t left_stride, const Scalar* right, int64_t right_stride,
    int64_t depth) {
  for (int64_t k = 0; k < depth; ++k, left += left_stride, right += right_stride) {
    Vec<Scalar> columns[kTileVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kTileVectors; ++v) columns[v] = load(right + v * kLanes<Scalar>);
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
      const Vec<Scalar> factor = splat<Scalar>(left[r]);
#pragma GCC unroll 2
      for (int v = 0; v < kTileVectors; ++v) tile.rows[r][v] += factor * columns[v];
    }
  }
}

// The same for the square on the diagonal: tile[r] takes only k <= r (or only k >= r), so that not even a NaN of
// another token reaches it.
template <bool lower, typename Scalar>
static inline __attribute__((always_inline)) void multiply_add_triangle(
    Tile<Scalar>& tile, const Scalar* left, int64_t left_stride, const Scalar* right, int64_t right_stride) {
#pragma GCC unroll 8
  for (int k = 0; k < kTileRows; ++k) {
#pragma GCC unroll 8
    for (int r = lower ? k : 0; r < (lower ? kTileRows : k + 1); ++r) {
      const Vec<Scalar> factor = splat<Scalar>(left[k * left_stride + r]);
#pragma GCC unroll 2
      for (int v = 0; v < kTileVectors; ++v) {
        tile.rows[r][v] += factor * load(right + k * right_stride + v * kLanes<Scalar>);
      }
    }
  }
}

template <typename Scalar>
static inline __attribute__((always_inline)) void scale_rows(Tile<Scalar>& tile, const Scalar* factors) {
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kTileVectors; ++v) tile.rows[r][v] *= splat<Scalar>(factors[r]);
}

// to[n] = keep from[n] + sum over s < depth of left[s, n] right[s], for all rows n of a panel; `from` is not looked at
// where `fresh`.
template <typename Scalar>
static inline void update_panel(
    Scalar* to, const Scalar* from, int64_t rows, bool fresh, Scalar keep, const Scalar* left, int64_t left_stride,
    const Scalar* right, int64_t right_stride, int64_t depth) {
  constexpr int width = kPanel<Scalar>, lanes = kLanes<Scalar>;
  for (int64_t n = 0; n < rows; n += kTileRows) {
    Tile<Scalar> tile;
    if (fresh) {
      clear(tile);
    } else {
#pragma GCC unroll 8
      for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < kTileVectors; ++v)
          tile.rows[r][v] = load(from + (n + r) * width + v * lanes) * splat<Scalar>(keep);
    }
    multiply_add(tile, left + n, left_stride, right, right_stride, depth);
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kTileVectors; ++v) store(to + (n + r) * width + v * lanes, tile.rows[r][v]);
  }
}

// out[s, t] = sum over k < depth of a[s, k] b[k, t], for all tokens s and t of a chunk.
template <typename Scalar>
static inline void chunk_products(Scalar* out, const Scalar* a, int64_t a_stride, const Scalar* b, int64_t depth) {
  for (int s = 0; s < kSsdChunk; s += 4) {
    alignas(64) Scalar sums[4][kSsdChunk] = {};
    for (int64_t k = 0; k < depth; ++k) {
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r)
        for (int t = 0; t < kSsdChunk; ++t) sums[r][t] += a[(s + r) * a_stride + k] * b[k * kSsdChunk + t];
    }
    __builtin_memcpy(out + s * kSsdChunk, sums, sizeof sums);
  }
}

// ---- rows of tensors ----

// `count` elements of a row, then zeros up to `padded`.
template <typename T>
static inline void copy_row(Compute<T>* to, const T* from, int64_t count, int64_t padded) {
  constexpr int lanes = kLanes<Compute<T>>;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(to + i, load(from + i));
  for (; i < count; ++i) to[i] = widen(from[i]);
  for (; i < padded; ++i) to[i] = 0;
}

// Rows of a chunk, with zeros up to `padded` columns and behind its end, and the same transposed.
template <typename T>
static inline void copy_chunk(
    Compute<T>* to, const T* from, int64_t stride, int length, int64_t count, int64_t padded) {
  for (int t = 0; t < kSsdChunk; ++t) copy_row(to + t * padded, from + t * stride, t < length ? count : 0, padded);
}
template <typename Scalar>
static inline void transpose_chunk(Scalar* to, const Scalar* from, int64_t columns) {
  for (int64_t n = 0; n < columns; ++n)
    for (int t = 0; t < kSsdChunk; ++t) to[n * kSsdChunk + t] = from[t * columns + n];
}

template <typename Scalar>
static inline Scalar read(const void* from, Element element, int64_t index) {
  switch (element) {
    case Element::kFloat64: return static_cast<Scalar>(static_cast<const double*>(from)[index]);
    case Element::kBFloat16: return widen(static_cast<const BFloat16*>(from)[index]);
    case Element::kFloat16: return widen(static_cast<const Float16*>(from)[index]);
    default: return static_cast<const float*>(from)[index];
  }
}

// ---- chunks ----

struct Chunk {
  int64_t start;
  int length;
  bool fresh;  // nothing comes from before: a reset, or the start without an initial state
};

// The chunks of the segment from token `start` on; returns how many.
static inline int64_t plan_chunks(const SsdInputs& in, int64_t row, int64_t start, Chunk* chunks) {
  const uint8_t* resets = in.resets ? in.resets + row * in.resets_batch : nullptr;
  const int64_t end = in.T - start < kSsdSegment ? in.T : start + kSsdSegment;
  int64_t count = 0;
  for (int64_t t = start; t < end; ++t) {
    const bool reset = resets && resets[t * in.resets_time];
    if (reset || (t - start) % kSsdChunk == 0) {
      chunks[count++] = {t, 0, reset || (t == 0 && !in.initial_state)};
    }
    ++chunks[count - 1].length;
  }
  return count;
}

// The step sizes of one head in a chunk, the factors by which it decays, and the inputs of the softplus; zeros, ones
// and zeros behind the chunk's end.
template <typename Scalar>
struct Steps {
  alignas(64) Scalar raw[kSsdChunk], dt[kSsdChunk], decay[kSsdChunk];
};

template <typename Scalar>
static inline void step_sizes(const SsdInputs& in, int64_t row, int64_t head, const Chunk& chunk, Steps<Scalar>& steps) {
  constexpr int lanes = kLanes<Scalar>;
  const int64_t first = row * in.dt_batch + head * in.dt_head + chunk.start * in.dt_time;
  const Scalar bias = in.dt_bias ? static_cast<const Scalar*>(in.dt_bias)[head] : Scalar(0);
  const Scalar A = static_cast<const Scalar*>(in.A)[head];
  const Scalar lowest = static_cast<Scalar>(in.dt_min), highest = static_cast<Scalar>(in.dt_max);
  for (int t = 0; t < kSsdChunk; ++t) {
    steps.raw[t] = t < chunk.length ? read<Scalar>(in.dt, in.dt_element, first + t * in.dt_time) + bias : Scalar(0);
  }
  for (int t = 0; t < kSsdChunk; t += lanes) {
    Vec<Scalar> dt = softplus(load(steps.raw + t));
    dt = dt < lowest ? splat(lowest) : dt;
    dt = dt > highest ? splat(highest) : dt;
    store(steps.dt + t, dt);
    store(steps.decay + t, exp(dt * A));
  }
  for (int t = chunk.length; t < kSsdChunk; ++t) {
    steps.dt[t] = 0;
    steps.decay[t] = 1;
  }
}

// What is left of token s's contribution at token t >= s, in rows of t (products, not exponentials of sums, so that a
// weak decay stays exact behind a strong one), and of the state before the chunk at token t.
template <typename Scalar>
static inline void survivals(const Steps<Scalar>& steps, int length, Scalar (*between)[kSsdChunk], Scalar* from_start) {
  for (int t = 0; t < kSsdChunk; ++t) between[length - 1][t] = t >= length - 1;
  for (int s = length - 1; s > 0; --s) {
    for (int t = 0; t < kSsdChunk; ++t) between[s - 1][t] = between[s][t] * steps.decay[s];
    between[s - 1][s - 1] = 1;
  }
  for (int t = 0; t < kSsdChunk; ++t) from_start[t] = between[0][t] * steps.decay[0];
}

}  // namespace hybridgen::HYBRIDGEN_ISA
