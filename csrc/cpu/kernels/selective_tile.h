// What the kernels of selective attention share: products of tiles in registers, copies of rows, scores, and what they
// hide. Tiles and panels are those of selective_reach.h.
#pragma once

#include <utility>  // for a sequence of numbers: of its functions none is called (see vec.h)

#include "activations.h"
#include "elementary.h"
#include "selective_reach.h"

namespace hybridgen::HYBRIDGEN_ISA {

enum class Start { kZero, kAdd, kScale };

// out[r] = start + sum over k < depth of left[r * left_row + k * left_depth] right[k], for kRows rows of one panel. The
// start is zero, out, or out times `factors`, lane by lane.
template <Start start, typename Scalar>
static inline __attribute__((always_inline)) void product_rows(
    Scalar* out, int64_t out_stride, const Scalar* left, int64_t left_row, int64_t left_depth, const Scalar* right,
    int64_t right_stride, int64_t depth, const Scalar* factors) {
  constexpr int lanes = kLanes<Scalar>;
  Vec<Scalar> sums[kRows][kPanelVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVectors; ++v) {
      if constexpr (start == Start::kZero) sums[r][v] = Vec<Scalar>{};
      if constexpr (start != Start::kZero) sums[r][v] = load(out + r * out_stride + v * lanes);
      if constexpr (start == Start::kScale) sums[r][v] *= load(factors + v * lanes);
    }
  for (int64_t k = 0; k < depth; ++k, left += left_depth, right += right_stride) {
    Vec<Scalar> columns[kPanelVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVectors; ++v) columns[v] = load(right + v * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec<Scalar> factor = splat<Scalar>(left[r * left_row]);
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVectors; ++v) sums[r][v] += factor * columns[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVectors; ++v) store(out + r * out_stride + v * lanes, sums[r][v]);
}

// The scores of the keys first ... last - 1 of a tile, whole numbers of kRows, in one panel. Rows of keys are `stride`
// numbers apart, those of the queries' transpose kQueries.
template <typename Scalar>
static inline void score_panel(
    Scalar* scores, const Scalar* keys, int64_t stride, const Scalar* queries, int64_t depth, int first, int last) {
  for (int key = first; key < last; key += kRows) {
    product_rows<Start::kZero, Scalar>(
        scores + key * kQueries, kQueries, keys + key * stride, stride, 1, queries, kQueries, depth, nullptr);
  }
}

// ---- copies ----

// Calls body.operator()<T>() with the type of the elements of a chooser.
template <typename Scalar, typename Body>
static inline void with_chooser(Element element, const Body& body) {
  if constexpr (sizeof(Scalar) == sizeof(double)) {
    body.template operator()<double>();
  } else {
    switch (element) {
      case Element::kBFloat16: return body.template operator()<BFloat16>();
      case Element::kFloat16: return body.template operator()<Float16>();
      default: return body.template operator()<float>();
    }
  }
}

// `count` elements of a row, then zeros up to `padded`. Adds to `odd` what is not zero if an element is not finite.
template <typename T>
static inline void widen_row(
    Compute<T>* to, const T* from, int64_t count, int64_t padded, Vec<Compute<T>>& odd) {
  constexpr int lanes = kLanes<Compute<T>>;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const Vec<Compute<T>> x = load(from + i);
    odd += x * 0;
    store(to + i, x);
  }
  if (i < count) odd += load_part(from + i, static_cast<int>(count - i)) * 0;
  for (; i < count; ++i) to[i] = widen(from[i]);
  for (; i < padded; ++i) to[i] = 0;
}

// Rows first ... first + kQueries - 1 of one head as dense rows of `padded` numbers, zeros behind the last one. Whether
// all of them are finite.
template <typename T>
static inline bool widen_tile(
    Compute<T>* to, int64_t stride, int64_t padded, const SelectRows& rows, int64_t row, int64_t head, int64_t first,
    int64_t end) {
  const T* from = static_cast<const T*>(rows.data) + row * rows.batch + head * rows.head;
  Vec<Compute<T>> odd{};
  for (int i = 0; i < kQueries; ++i) {
    const int64_t count = first + i < end ? rows.width : 0;
    widen_row(to + i * stride, from + (first + i) * rows.time * (count > 0), count, padded, odd);
  }
  for (int lane = 0; lane < kLanes<Compute<T>>; ++lane) {
    if (!(odd[lane] == 0)) return false;
  }
  return true;
}

// The keys of one query head's pairs side by side, for the tile from key `first` on.
template <typename T>
static inline void widen_keys(
    Compute<T>* to, const SelectInputs& in, int64_t row, int64_t head, int64_t first) {
  const int64_t stride = select_padded(in.depth);
  int64_t column = 0;
  for (int64_t i = 0; i < in.pair_count; ++i) {
    const SelectRows& k = in.pairs[i].k;
    const bool is_last = i + 1 == in.pair_count;
    widen_tile<T>(
        to + column, stride, is_last ? stride - column : k.width, k, row, head / (in.H / k.heads), first, in.S);
    column += k.width;
  }
}

// Whether two query heads read the same keys.
static inline bool same_keys(const SelectInputs& in, int64_t head, int64_t other) {
  for (int64_t i = 0; i < in.pair_count; ++i) {
    const int64_t shared = in.H / in.pairs[i].k.heads;
    if (head / shared != other / shared) return false;
  }
  return true;
}

// A block of one head's queries times a factor, transposed to [width][kQueries]; zeros behind the last one.
template <typename T>
static inline void transpose_rows(
    Compute<T>* to, const SelectRows& rows, int64_t row, int64_t head, int64_t first, int64_t count,
    Compute<T> factor) {
  const T* from = static_cast<const T*>(rows.data) + row * rows.batch + head * rows.head + first * rows.time;
  for (int64_t i = 0; i < kQueries; i += 8) {
    if (i + 8 <= count) {
      for (int64_t k = 0; k < rows.width; ++k)
#pragma GCC unroll 8
        for (int64_t j = i; j < i + 8; ++j) to[k * kQueries + j] = widen(from[j * rows.time + k]) * factor;
    } else {
      for (int64_t k = 0; k < rows.width; ++k)
        for (int64_t j = i; j < i + 8; ++j) {
          to[k * kQueries + j] = j < count ? widen(from[j * rows.time + k]) * factor : Compute<T>(0);
        }
    }
  }
}

template <typename T>
static inline void transpose_queries(
    Compute<T>* to, const SelectInputs& in, int64_t row, int64_t head, int64_t first, int64_t count) {
  for (int64_t i = 0; i < in.pair_count; ++i) {
    transpose_rows<T>(to, in.pairs[i].q, row, head, first, count, static_cast<Compute<T>>(in.scale));
    to += in.pairs[i].q.width * kQueries;
  }
}

template <typename Scalar>
static inline void transpose_choosers(Scalar* to, const SelectInputs& in, int64_t row, int64_t first, int64_t count) {
  for (int64_t i = 0; i < in.chooser_count; ++i) {
    const SelectRows& q = in.choosers[i].q;
    with_chooser<Scalar>(q.element, [&]<typename T>() { transpose_rows<T>(to, q, row, 0, first, count, Scalar(1)); });
    to += q.width * kQueries;
  }
}

// A tile of a chooser's queries or keys.
template <typename Scalar>
static inline void widen_chooser(Scalar* to, const SelectRows& rows, int64_t row, int64_t first, int64_t end) {
  const int64_t stride = select_padded(rows.width);
  with_chooser<Scalar>(rows.element, [&]<typename T>() {
    widen_tile<T>(to, stride, stride, rows, row, 0, first, end);
  });
}

// ---- scores ----

template <typename Scalar>
static inline Vec<Scalar> soft_capped(Vec<Scalar> x, Scalar cap) {
  return cap * Act<Activation::kTanh>::value(x / cap);
}

template <typename Scalar>
static inline void cap_panel(Scalar* scores, const SelectInputs& in, int panel, const Reach& reach) {
  if (!in.capped) return;
  for (int key = reach.first; key < reach.last; ++key) {
    for (int v = 0; v < kPanelVectors; ++v) {
      Scalar* at = scores + key * kQueries + panel * kPanelLanes<Scalar> + v * kLanes<Scalar>;
      store(at, soft_capped(load(at), static_cast<Scalar>(in.softcap)));
    }
  }
}

// Scores of one head in one panel: takes off the distances and caps them, in place.
template <typename Scalar>
static inline void bias_and_cap(
    Scalar* scores, const SelectInputs& in, const Block<Scalar>& block, int64_t head, int panel, int64_t tile,
    const Reach& reach) {
  constexpr int lanes = kLanes<Scalar>;
  if (!in.slopes && !in.capped) return;
  const Scalar slope = in.slopes ? static_cast<const Scalar*>(in.slopes)[head] : Scalar(0);
  for (int key = reach.first; key < reach.last; ++key) {
    for (int v = 0; v < kPanelVectors; ++v) {
      const int lane = panel * kPanelLanes<Scalar> + v * lanes;
      Scalar* at = scores + key * kQueries + lane;
      Vec<Scalar> x = load(at);
      if (in.slopes) {
        Lane<Scalar> index;
        __builtin_memcpy(&index, block.index + lane, sizeof index);
        const Lane<Scalar> distance = index - static_cast<LaneNumber<Scalar>>(tile * kQueries + key);
        x += slope * negative_magnitude(__builtin_convertvector(distance, Vec<Scalar>));
      }
      store(at, in.capped ? soft_capped(x, static_cast<Scalar>(in.softcap)) : x);
    }
  }
}

// Adds to `hides` (G) what one chooser's scores hide in one panel.
template <typename Scalar>
static inline void add_choices(
    Scalar* hides, const Scalar* scores, const SelectInputs& in, const Block<Scalar>& block, int panel, int64_t tile,
    const Reach& reach) {
  constexpr int lanes = kLanes<Scalar>;
  for (int key = reach.first; key < reach.last; ++key) {
    for (int v = 0; v < kPanelVectors; ++v) {
      const int lane = panel * kPanelLanes<Scalar> + v * lanes;
      const Vec<Scalar> x = load(scores + key * kQueries + lane);
      const Lane<Scalar> may = may_hide(in, block, lane, tile * kQueries + key);
      // A NaN chooses, too.
      const Vec<Scalar> chosen = x <= 0 ? Vec<Scalar>{} : x;
      Scalar* at = hides + key * kQueries + lane;
      store(at, load(at) + (may ? chosen : Vec<Scalar>{}));
    }
  }
}

// Queries and scratch of what chooses in a block: the selection head's queries, transposed, and the other choosers'.
template <typename Scalar>
struct Selector {
  const Scalar *queries, *chooser_queries;
  Scalar* keys;    // room for a tile of chooser's keys
  Scalar* scores;  // and for one of scores
};

// G of a tile, zero where a panel reaches no key. `chosen` are the selection head's scores, biased and capped, if there
// is one.
template <typename Scalar>
static inline void hide_tile(
    Scalar* hides, const Scalar* chosen, const SelectInputs& in, const Block<Scalar>& block,
    const Selector<Scalar>& selector, int64_t tile) {
  __builtin_memset(hides, 0, sizeof(Scalar) * kQueries * kQueries);
  for (int panel = 0; panel < block.panels && chosen; ++panel) {
    add_choices(hides, chosen, in, block, panel, tile, reach_of(in, block, panel, tile));
  }
  const Scalar* queries = selector.chooser_queries;
  for (int64_t i = 0; i < in.chooser_count; ++i) {
    const SelectRows& k = in.choosers[i].k;
    const int64_t stride = select_padded(k.width);
    widen_chooser(selector.keys, k, block.row, tile * kQueries, in.S);
    for (int panel = 0; panel < block.panels; ++panel) {
      const Reach reach = reach_of(in, block, panel, tile);
      const int at = panel * kPanelLanes<Scalar>;
      score_panel(selector.scores + at, selector.keys, stride, queries + at, k.width, reach.first, reach.last);
      cap_panel(selector.scores, in, panel, reach);
      add_choices(hides, selector.scores, in, block, panel, tile, reach);
    }
    queries += k.width * kQueries;
  }
}

// Adds what stands in the table to the scores of one panel and writes the sum there, or with `done` reads it; then
// takes the share of it.
template <bool done, typename Scalar>
static inline void exchange_panel(
    Scalar* scores, const SelectInputs& in, const Block<Scalar>& block, int64_t head, int panel, int64_t tile,
    const Reach& reach) {
  constexpr int lanes = kLanes<Scalar>;
  const SelectTable& table = *in.table;
  const Scalar share = static_cast<Scalar>(table.share);
  const Scalar* before = static_cast<const Scalar*>(table.before);
  Scalar* total = static_cast<Scalar*>(table.total) + block.row * table.total_batch + head * table.total_head;
  total += block.first;
  if (before) before += block.row * table.before_batch + head * table.before_head + block.first;
  for (int key = reach.first; key < reach.last && tile * kQueries + key < in.S; ++key) {
    const int64_t at = tile * kQueries + key;
    for (int v = 0; v < kPanelVectors; ++v) {
      const int lane = panel * kPanelLanes<Scalar> + v * lanes;
      const int count = block.count - lane < lanes ? static_cast<int>(block.count - lane) : lanes;
      if (count <= 0) continue;
      Scalar *score = scores + key * kQueries + lane, *to = total + at * table.total_key + lane;
      const Scalar* from = done ? to : before ? before + at * table.before_key + lane : nullptr;
      Vec<Scalar> sum = done ? Vec<Scalar>{} : load(score);
      if (from) sum += count == lanes ? load(from) : load_part(from, count);
      if (!done && count == lanes) store(to, sum);
      if (!done && count < lanes) store_part(to, sum, count);
      store(score, sum * share);
    }
  }
}

// The scores of the selection head, from the table into which the first pass has written them.
template <typename Scalar>
static inline void read_tile_of_table(
    Scalar* scores, const SelectInputs& in, const Block<Scalar>& block, int64_t head, int64_t tile) {
  for (int panel = 0; panel < block.panels; ++panel) {
    const Reach reach = reach_of(in, block, panel, tile);
    exchange_panel<true>(scores, in, block, head, panel, tile, reach);
    bias_and_cap(scores, in, block, head, panel, tile, reach);
  }
}

// Scores of a head in all panels of a tile, biased and capped.
template <typename Scalar>
static inline void score_tile(
    Scalar* scores, const Scalar* keys, const Scalar* queries, const SelectInputs& in, const Block<Scalar>& block,
    int64_t head, int64_t tile) {
  for (int panel = 0; panel < block.panels; ++panel) {
    const Reach reach = reach_of(in, block, panel, tile);
    const int at = panel * kPanelLanes<Scalar>;
    score_panel(scores + at, keys, select_padded(in.depth), queries + at, in.depth, reach.first, reach.last);
    if (in.table) exchange_panel<false>(scores, in, block, head, panel, tile, reach);
    bias_and_cap(scores, in, block, head, panel, tile, reach);
  }
}

template <int distance, typename V, int... lane>
static inline V moved_up(V x, std::integer_sequence<int, lane...>) {
  constexpr int lanes = sizeof...(lane);
  return __builtin_shufflevector(V{}, x, (lane < distance ? lane : lanes + lane - distance)...);
}

// The sum of the lanes up to each, the lane itself included.
template <typename Scalar, int distance = 1>
static inline Vec<Scalar> running_sum(Vec<Scalar> x) {
  if constexpr (distance >= kLanes<Scalar>) {
    return x;
  } else {
    x += moved_up<distance>(x, std::make_integer_sequence<int, kLanes<Scalar>>{});
    return running_sum<Scalar, 2 * distance>(x);
  }
}

// Turns G of a tile into F, given F at the block's start.
template <typename Scalar>
static inline void accumulate(Scalar* hides, const Scalar* before, int64_t keys) {
  constexpr int lanes = kLanes<Scalar>;
  for (int key = 0; key < keys; ++key) {
    Scalar carry = before[key];
    for (int lane = 0; lane < kQueries; lane += lanes) {
      const Vec<Scalar> total = running_sum<Scalar>(load(hides + key * kQueries + lane));
      store(hides + key * kQueries + lane,
            carry + moved_up<1>(total, std::make_integer_sequence<int, lanes>{}));
      carry += total[lanes - 1];
    }
  }
}

}  // namespace hybridgen::HYBRIDGEN_ISA
