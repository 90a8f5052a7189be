// Selective attention, forward, in two passes over blocks of queries.
//
// What a token has hidden is a sum over all queries before the one that looks, and a block needs it at its start. The
// first pass computes the selection head's scores alone and sums them over each block's queries; their running sum over
// the blocks is F at each block's start. The second pass then does every block by itself, as attention without a table
// of scores does: tile by tile, with a running maximum and sum.
#include "../selective_attention.h"

#include "selective_tile.h"

namespace hybridgen::HYBRIDGEN_ISA {

namespace {

// ---- first pass ----

template <typename T>
void sum_choices(const SelectSums& args, int64_t worker, int64_t job) {
  using Scalar = Compute<T>;
  const SelectInputs& in = args.in;
  const int64_t span = job % args.spans, number = job / args.spans % in.blocks(), row = job / args.spans / in.blocks();
  Block<Scalar> block;
  set_block(block, in, row, number);
  const int64_t per_span = kSelectSpan / kQueries, begin = span * per_span, end = begin + per_span;
  int64_t tile = block.first_tile() > begin ? block.first_tile() : begin;
  const int64_t last = block.last_tile() < end - 1 ? block.last_tile() : end - 1;
  if (tile > last) return;
  Scalar* queries = static_cast<Scalar*>(args.scratch) + worker * args.scratch_size;
  Scalar* chooser_queries = queries + in.depth * kQueries;
  Scalar* keys = chooser_queries + in.chooser_depth * kQueries;
  const int64_t widest = in.depth > in.chooser_depth ? in.depth : in.chooser_depth;
  Scalar* scores = keys + select_padded(widest) * kQueries;
  Scalar* hides = scores + kQueries * kQueries;
  const bool own = in.selection_head >= 0;
  if (own) transpose_queries<T>(queries, in, row, in.selection_head, block.first, block.count);
  transpose_choosers(chooser_queries, in, row, block.first, block.count);
  const Selector<Scalar> selector{queries, chooser_queries, keys, scores};
  Scalar* sums = static_cast<Scalar*>(args.sums) + (row * in.blocks() + number) * in.S;
  for (; tile <= last; ++tile) {
    if (own) {
      widen_keys<T>(keys, in, row, in.selection_head, tile * kQueries);
      score_tile(scores, keys, queries, in, block, in.selection_head, tile);
    }
    hide_tile(hides, own ? scores : nullptr, in, block, selector, tile);
    for (int key = 0; key < kQueries && tile * kQueries + key < in.S; ++key) {
      Vec<Scalar> total{};
      for (int lane = 0; lane < kQueries; lane += kLanes<Scalar>) total += load(hides + key * kQueries + lane);
      sums[tile * kQueries + key] = sum<Scalar>(total);
    }
  }
}

template <typename Scalar>
void prefix(const SelectPrefix& args, int64_t row, int64_t first_key, int64_t last_key) {
  const SelectInputs& in = args.in;
  Scalar* running = static_cast<Scalar*>(args.after) + row * in.S;
  const Scalar* hidden = in.hidden ? static_cast<const Scalar*>(in.hidden) + row * (in.S - in.T) : nullptr;
  for (int64_t key = first_key; key < last_key; ++key) {
    running[key] = hidden && key < in.S - in.T ? hidden[key] : Scalar(0);
  }
  if (!args.sums) return;
  Block<Scalar> block;
  for (int64_t number = 0; number < in.blocks(); ++number) {
    set_block(block, in, row, number);
    Scalar* sums = static_cast<Scalar*>(args.sums) + (row * in.blocks() + number) * in.S;
    const int64_t low = block.first_tile() * kQueries, high = (block.last_tile() + 1) * kQueries;
    for (int64_t key = first_key; key < last_key; ++key) {
      const Scalar before = running[key];
      if (key >= low && key < high) running[key] += sums[key];
      sums[key] = before;
    }
  }
}

// ---- second pass ----

// Where a worker keeps what belongs to one job. Per head: queries [depth][kQueries], output [V][kQueries], maxima and
// sums [kQueries].
template <typename Scalar>
struct Room {
  Scalar *queries, *outputs, *maxima, *sums, *own_queries, *chooser_queries;
  Scalar *keys, *values, *scores, *chosen, *hides, *factors;

  Room(const SelectForward& args, int64_t worker) {
    const SelectInputs& in = args.in;
    const int64_t widest = in.depth > in.chooser_depth ? in.depth : in.chooser_depth;
    queries = static_cast<Scalar*>(args.scratch) + worker * args.scratch_size;
    outputs = queries + args.heads * in.depth * kQueries;
    maxima = outputs + args.heads * select_padded(in.v.width) * kQueries;
    sums = maxima + args.heads * kQueries;
    own_queries = sums + args.heads * kQueries;
    chooser_queries = own_queries + in.depth * kQueries;
    keys = chooser_queries + in.chooser_depth * kQueries;
    values = keys + select_padded(widest) * kQueries;
    scores = values + select_padded(in.v.width) * kQueries;
    chosen = scores + kQueries * kQueries;
    hides = chosen + kQueries * kQueries;
    factors = hides + kQueries * kQueries;
  }
};

// Logits of one panel from its scores, in place, and their maximum beside `highest`.
template <bool masked, typename Scalar>
static inline void finish_logits(
    Scalar* scores, const Scalar* hidden, const SelectInputs& in, const Block<Scalar>& block, int panel, int64_t tile,
    const Reach& reach, Vec<Scalar>* highest) {
  constexpr int lanes = kLanes<Scalar>;
  const int at = panel * kPanelLanes<Scalar>;
  for (int key = reach.first; key < reach.last; ++key) {
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVectors; ++v) {
      const int64_t place = key * kQueries + at + v * lanes;
      Vec<Scalar> x = load(scores + place);
      if (hidden) x -= load(hidden + place);
      if constexpr (masked) {
        const Lane<Scalar> seen = sees(in, block, at + v * lanes, tile * kQueries + key);
        x = seen ? x : splat<Scalar>(-__builtin_inf());
      }
      if (masked || hidden) store(scores + place, x);
      highest[v] = max(highest[v], x);
    }
  }
}

// Logits to weights relative to the running maximum, in place; advances maximum and sum, and leaves in `factors` what
// the output so far is to be multiplied with.
template <typename Scalar>
static inline void weigh(
    Scalar* scores, Scalar* maxima, Scalar* sums, Scalar* factors, int at, const Reach& reach,
    const Vec<Scalar>* highest) {
  constexpr int lanes = kLanes<Scalar>;
  Vec<Scalar> offsets[kPanelVectors], totals[kPanelVectors];
  const Scalar lowest = static_cast<Scalar>(-__builtin_inf());
  for (int v = 0; v < kPanelVectors; ++v) {
    const Vec<Scalar> old = load(maxima + at + v * lanes);
    // Where nothing has been seen yet, any finite number will do.
    offsets[v] = highest[v] == lowest ? Vec<Scalar>{} : highest[v];
    const Vec<Scalar> factor = exp(old - offsets[v]);
    store(maxima + at + v * lanes, highest[v]);
    store(factors + at + v * lanes, factor);
    totals[v] = load(sums + at + v * lanes) * factor;
  }
  for (int key = reach.first; key < reach.last; ++key) {
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVectors; ++v) {
      Scalar* place = scores + key * kQueries + at + v * lanes;
      const Vec<Scalar> weight = exp(load(place) - offsets[v]);
      totals[v] += weight;
      store(place, weight);
    }
  }
  for (int v = 0; v < kPanelVectors; ++v) store(sums + at + v * lanes, totals[v]);
}

// Adds weighted values to the outputs [V][kQueries] of one panel.
template <typename Scalar>
static inline void add_values(
    Scalar* outputs, const Scalar* weights, const Scalar* values, int64_t width, const Scalar* factors, int at,
    const Reach& reach) {
  const int64_t stride = select_padded(width);
  for (int64_t d = 0; d < width; d += kRows) {
    product_rows<Start::kScale, Scalar>(
        outputs + d * kQueries + at, kQueries, values + reach.first * stride + d, 1, stride,
        weights + reach.first * kQueries + at, kQueries, reach.last - reach.first, factors + at);
  }
}

// The same where a value is not finite: it must not reach a query that does not see its key.
template <typename Scalar>
static void add_odd_values(
    Scalar* outputs, const Scalar* weights, const Scalar* values, int64_t width, const Scalar* factors, int at,
    const Reach& reach) {
  const int64_t stride = select_padded(width);
  for (int64_t d = 0; d < width; ++d) {
    for (int lane = at; lane < at + kPanelLanes<Scalar>; lane += kLanes<Scalar>) {
      Vec<Scalar> total = load(outputs + d * kQueries + lane) * load(factors + lane);
      for (int key = reach.first; key < reach.last; ++key) {
        const Vec<Scalar> weight = load(weights + key * kQueries + lane);
        const Vec<Scalar> more = total + weight * values[key * stride + d];
        total = weight == 0 ? total : more;
      }
      store(outputs + d * kQueries + lane, total);
    }
  }
}

// One tile's part of one head: scores, or those in `chosen`, to weights, and these times the values.
template <typename Scalar>
static inline void attend_tile(
    const Room<Scalar>& room, Scalar* scores, int64_t slot, const SelectInputs& in, const Block<Scalar>& block,
    int64_t tile, bool finite) {
  const int64_t padded = select_padded(in.v.width);
  Scalar* outputs = room.outputs + slot * padded * kQueries;
  Scalar* maxima = room.maxima + slot * kQueries;
  const Scalar* hidden = in.chooses() ? room.hides : nullptr;
  for (int panel = 0; panel < block.panels; ++panel) {
    const Reach reach = reach_of(in, block, panel, tile);
    if (reach.first >= reach.last) continue;
    const int at = panel * kPanelLanes<Scalar>;
    Vec<Scalar> highest[kPanelVectors];
    for (int v = 0; v < kPanelVectors; ++v) highest[v] = load(maxima + at + v * kLanes<Scalar>);
    if (reach.all) {
      finish_logits<false>(scores, hidden, in, block, panel, tile, reach, highest);
    } else {
      finish_logits<true>(scores, hidden, in, block, panel, tile, reach, highest);
    }
    weigh(scores, maxima, room.sums + slot * kQueries, room.factors, at, reach, highest);
    if (finite || reach.all) {
      add_values(outputs, scores, room.values, in.v.width, room.factors, at, reach);
    } else {
      add_odd_values(outputs, scores, room.values, in.v.width, room.factors, at, reach);
    }
  }
}

// Empty outputs, and the sinks as all that the softmax has seen.
template <typename T>
static inline void start_head(const SelectForward& args, const Room<Compute<T>>& room, const Block<Compute<T>>& block,
                              int64_t head, int64_t slot) {
  using Scalar = Compute<T>;
  const SelectInputs& in = args.in;
  const int64_t padded = select_padded(in.v.width);
  transpose_queries<T>(room.queries + slot * in.depth * kQueries, in, block.row, head, block.first, block.count);
  __builtin_memset(room.outputs + slot * padded * kQueries, 0, sizeof(Scalar) * padded * kQueries);
  const Scalar sink = in.sinks ? static_cast<const Scalar*>(in.sinks)[head] : static_cast<Scalar>(-__builtin_inf());
  for (int i = 0; i < kQueries; ++i) {
    room.maxima[slot * kQueries + i] = sink;
    room.sums[slot * kQueries + i] = in.sinks ? 1 : 0;
  }
}

template <typename T>
static inline void finish_head(const SelectForward& args, const Room<Compute<T>>& room, const Block<Compute<T>>& block,
                               int64_t head, int64_t slot) {
  using Scalar = Compute<T>;
  const SelectInputs& in = args.in;
  const int64_t width = in.v.width, first = (block.row * in.H + head) * in.T + block.first;
  Scalar* outputs = room.outputs + slot * select_padded(width) * kQueries;
  const Scalar *maxima = room.maxima + slot * kQueries, *sums = room.sums + slot * kQueries;
  for (int lane = 0; lane < kQueries; lane += kLanes<Scalar>) {
    const Vec<Scalar> inverse = 1 / load(sums + lane);
    for (int64_t d = 0; d < width; ++d) {
      Scalar* place = outputs + d * kQueries + lane;
      store(place, load(place) * inverse);
    }
  }
  T* y = static_cast<T*>(args.y) + first * width;
  for (int64_t i = 0; i < block.count; ++i)
    for (int64_t d = 0; d < width; ++d) narrow(outputs[d * kQueries + i], y[i * width + d]);
  if (!args.sums) return;
  Scalar* logs = static_cast<Scalar*>(args.sums) + first;
  for (int64_t i = 0; i < block.count; ++i) logs[i] = maxima[i] + static_cast<Scalar>(::log(sums[i]));
}

// F of a tile for the block's queries, or G where nothing adds up, into room.hides; the selection head's scores into
// room.chosen.
template <typename T>
static inline void hidden_tile(
    const SelectForward& args, const Room<Compute<T>>& room, const Block<Compute<T>>& block, int64_t number,
    int64_t tile) {
  using Scalar = Compute<T>;
  const SelectInputs& in = args.in;
  const bool own = in.selection_head >= 0;
  if (own && in.table) {
    read_tile_of_table(room.chosen, in, block, in.selection_head, tile);
  } else if (own) {
    widen_keys<T>(room.keys, in, block.row, in.selection_head, tile * kQueries);
    score_tile(room.chosen, room.keys, room.own_queries, in, block, in.selection_head, tile);
  }
  const Selector<Scalar> selector{room.own_queries, room.chooser_queries, room.keys, room.scores};
  hide_tile(room.hides, own ? room.chosen : nullptr, in, block, selector, tile);
  if (!in.over_time) return;
  const int64_t first = tile * kQueries, keys = in.S - first < kQueries ? in.S - first : kQueries;
  accumulate(
      room.hides, static_cast<const Scalar*>(args.before) + (block.row * in.blocks() + number) * in.S + first, keys);
}

// Asks for the table's part of a head and tile: the distance between its rows is too far for the processor to guess.
template <typename Scalar>
static inline void fetch_table(const SelectInputs& in, const Block<Scalar>& block, int64_t head, int64_t tile) {
  const SelectTable& table = *in.table;
  if (!table.before || head == in.selection_head) return;
  const Scalar* before = static_cast<const Scalar*>(table.before) + block.row * table.before_batch +
                         head * table.before_head + block.first;
  constexpr int line = 64 / sizeof(Scalar);
  for (int64_t key = tile * kQueries; key < (tile + 1) * kQueries && key < in.S; ++key) {
    for (int lane = 0; lane < block.count; lane += line) {
      __builtin_prefetch(before + key * table.before_key + lane, 1, 2);
    }
  }
}

template <typename T>
void attend(const SelectForward& args, int64_t worker, int64_t job) {
  using Scalar = Compute<T>;
  const SelectInputs& in = args.in;
  // The last blocks see the most keys: they come first, so that no thread is left with one at the end.
  const int64_t groups = args.groups(), number = in.blocks() - 1 - job / groups % in.blocks();
  const int64_t row = job / groups / in.blocks(), first_head = job % groups * args.heads;
  const int64_t last_head = first_head + args.heads < in.H ? first_head + args.heads : in.H;
  Block<Scalar> block;
  set_block(block, in, row, number);
  const Room<Scalar> room(args, worker);
  for (int64_t head = first_head; head < last_head; ++head) start_head<T>(args, room, block, head, head - first_head);
  if (in.chooses()) {
    if (in.selection_head >= 0) {
      transpose_queries<T>(room.own_queries, in, row, in.selection_head, block.first, block.count);
    }
    transpose_choosers(room.chooser_queries, in, row, block.first, block.count);
  }
  for (int64_t tile = block.first_tile(); tile <= block.last_tile(); ++tile) {
    if (in.chooses()) hidden_tile<T>(args, room, block, number, tile);
    bool finite = true;
    for (int64_t head = first_head; head < last_head; ++head) {
      const int64_t slot = head - first_head, shared = in.H / in.v.heads, first = tile * kQueries;
      if (slot == 0 || !same_keys(in, head, head - 1)) widen_keys<T>(room.keys, in, row, head, first);
      if (slot == 0 || head % shared == 0) {
        const int64_t stride = select_padded(in.v.width);
        finite = widen_tile<T>(room.values, stride, stride, in.v, row, head / shared, first, in.S);
      }
      if (in.table) {
        const bool last = head + 1 == last_head;
        fetch_table(in, block, last ? first_head : head + 1, last ? tile + 1 : tile);
      }
      Scalar* scores = head == in.selection_head ? room.chosen : room.scores;
      if (head != in.selection_head) {
        score_tile(scores, room.keys, room.queries + slot * in.depth * kQueries, in, block, head, tile);
      }
      attend_tile(room, scores, slot, in, block, tile, finite);
    }
  }
  for (int64_t head = first_head; head < last_head; ++head) finish_head<T>(args, room, block, head, head - first_head);
}

}  // namespace

void select_sums(const SelectSums& args, int64_t worker, int64_t job) {
  with_element(args.in.element, [&]<typename T>() { sum_choices<T>(args, worker, job); });
}

void select_prefix(const SelectPrefix& args, int64_t row, int64_t first_key, int64_t last_key) {
  with_element(args.in.element, [&]<typename T>() { prefix<Compute<T>>(args, row, first_key, last_key); });
}

void select_forward(const SelectForward& args, int64_t worker, int64_t job) {
  with_element(args.in.element, [&]<typename T>() { attend<T>(args, worker, job); });
}

}  // namespace hybridgen::HYBRIDGEN_ISA
