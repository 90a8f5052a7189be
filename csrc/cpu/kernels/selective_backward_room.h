// Where the backward pass of selective attention keeps a tile of keys, and how it gets there and back.
#pragma once

#include "selective_tile.h"

namespace hybridgen::HYBRIDGEN_ISA {

constexpr int64_t kSquare = kQueries * kQueries;

template <typename Scalar>
struct BackwardRoom {
  int64_t depth, V;  // padded
  Scalar *keys, *dkeys, *values, *dvalues, *query_rows, *dy_rows;
  Scalar *chooser_keys, *chooser_dkeys, *chooser_rows;
  Scalar *chosen, *hides, *dhides, *scores, *weights, *dscores, *later;

  BackwardRoom(const SelectBackward& args, int64_t worker) {
    const SelectInputs& in = args.in;
    depth = select_padded(in.depth), V = select_padded(in.v.width);
    const int64_t choosers = (in.chooser_depth + 32 * in.chooser_count) * kQueries;
    chosen = static_cast<Scalar*>(args.scratch) + worker * args.scratch_size;
    hides = chosen + kSquare, dhides = hides + kSquare, scores = dhides + kSquare;
    weights = scores + kSquare, dscores = weights + kSquare, later = dscores + kSquare;
    keys = later + kQueries, dkeys = keys + args.slots() * depth * kQueries;
    values = dkeys + args.slots() * depth * kQueries, dvalues = values + in.v.heads * V * kQueries;
    query_rows = dvalues + in.v.heads * V * kQueries, dy_rows = query_rows + depth * kQueries;
    chooser_keys = dy_rows + V * kQueries, chooser_dkeys = chooser_keys + choosers;
    chooser_rows = chooser_dkeys + choosers;
  }
};

// Where the transposed rows of a head's block stand.
static inline int64_t place(const SelectInputs& in, int64_t row, int64_t head, int64_t block) {
  return (row * in.H + head) * in.blocks() + block;
}

// The queries of a head's block as rows, all pairs side by side, times the scale.
template <typename T>
static inline void query_rows(Compute<T>* to, const SelectInputs& in, const Block<Compute<T>>& block, int64_t head) {
  using Scalar = Compute<T>;
  const int64_t stride = select_padded(in.depth);
  Vec<Scalar> odd{};
  int64_t column = 0;
  for (int64_t i = 0; i < in.pair_count; ++i) {
    const SelectRows& q = in.pairs[i].q;
    const int64_t padded = i + 1 == in.pair_count ? stride - column : q.width;
    const T* from = static_cast<const T*>(q.data) + block.row * q.batch + head * q.head + block.first * q.time;
    for (int64_t t = 0; t < block.count; ++t) {
      widen_row(to + t * stride + column, from + t * q.time, q.width, padded, odd);
    }
    column += q.width;
  }
  const Scalar scale = static_cast<Scalar>(in.scale);
  for (int64_t c = 0; c < block.count * stride; c += kLanes<Scalar>) store(to + c, load(to + c) * scale);
}

template <typename T>
static inline void read_tile(
    const SelectBackward& args, const BackwardRoom<Compute<T>>& room, int64_t row, int64_t tile) {
  using Scalar = Compute<T>;
  const SelectInputs& in = args.in;
  const int64_t first = tile * kQueries;
  for (int64_t slot = 0; slot < args.slots(); ++slot) {
    widen_keys<T>(room.keys + slot * room.depth * kQueries, in, row, slot * args.heads_per_slot, first);
  }
  for (int64_t head = 0; head < in.v.heads; ++head) {
    widen_tile<T>(room.values + head * room.V * kQueries, room.V, room.V, in.v, row, head, first, in.S);
  }
  Scalar* keys = room.chooser_keys;
  for (int64_t i = 0; i < in.chooser_count; ++i) {
    const int64_t stride = select_padded(in.choosers[i].k.width);
    widen_chooser(keys, in.choosers[i].k, row, first, in.S);
    keys += stride * kQueries;
  }
  __builtin_memset(room.dkeys, 0, sizeof(Scalar) * args.slots() * room.depth * kQueries);
  __builtin_memset(room.dvalues, 0, sizeof(Scalar) * in.v.heads * room.V * kQueries);
  __builtin_memset(room.chooser_dkeys, 0, sizeof(Scalar) * (in.chooser_depth + 32 * in.chooser_count) * kQueries);
  const Scalar* dafter = static_cast<const Scalar*>(args.dafter) + row * in.S + first;
  for (int key = 0; key < kQueries; ++key) room.later[key] = first + key < in.S ? dafter[key] : Scalar(0);
}

// `count` columns of `rows` keys to a dense output.
template <typename T>
static inline void write_rows(T* to, const Compute<T>* from, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t c = 0; c < columns; ++c) narrow(from[i * stride + c], to[i * columns + c]);
}

template <typename T>
static inline void write_tile(
    const SelectBackward& args, const BackwardRoom<Compute<T>>& room, int64_t row, int64_t tile) {
  using Scalar = Compute<T>;
  const SelectInputs& in = args.in;
  const int64_t first = tile * kQueries, rows = in.S - first < kQueries ? in.S - first : kQueries;
  int64_t column = 0;
  for (int64_t i = 0; i < in.pair_count; ++i) {
    const SelectRows& k = in.pairs[i].k;
    const int64_t slots = args.slots() / k.heads;
    for (int64_t head = 0; head < k.heads; ++head) {
      Scalar* total = room.dkeys + head * slots * room.depth * kQueries + column;
      for (int64_t slot = 1; slot < slots; ++slot) {
        const Scalar* more = total + slot * room.depth * kQueries;
        for (int64_t key = 0; key < rows; ++key)
          for (int64_t c = 0; c < k.width; ++c) total[key * room.depth + c] += more[key * room.depth + c];
      }
      T* dk = static_cast<T*>(args.dk[i]) + ((row * k.heads + head) * in.S + first) * k.width;
      write_rows(dk, total, room.depth, rows, k.width);
    }
    column += k.width;
  }
  for (int64_t head = 0; head < in.v.heads; ++head) {
    T* dv = static_cast<T*>(args.dv) + ((row * in.v.heads + head) * in.S + first) * in.v.width;
    write_rows(dv, room.dvalues + head * room.V * kQueries, room.V, rows, in.v.width);
  }
  const Scalar* dkeys = room.chooser_dkeys;
  for (int64_t i = 0; i < in.chooser_count; ++i) {
    const int64_t width = in.choosers[i].k.width, stride = select_padded(width);
    with_chooser<Scalar>(in.choosers[i].k.element, [&]<typename C>() {
      write_rows(static_cast<C*>(args.dchooser_k[i]) + (row * in.S + first) * width, dkeys, stride, rows, width);
    });
    dkeys += stride * kQueries;
  }
  Scalar* dhidden = static_cast<Scalar*>(args.dhidden) + row * (in.S - in.T);
  for (int64_t key = first; key < first + rows && key < in.S - in.T; ++key) dhidden[key] = room.later[key - first];
}

}  // namespace hybridgen::HYBRIDGEN_ISA
