// Selective attention, backward: key tile by key tile, each through all blocks of queries from the last to the first.
//
// The selection head's scores have two gradients: that of attention, and that of F. What a query hides of a key counts
// for all later queries, so the second is a sum over them; going backwards it is a number per key that grows.
#include "selective_backward_room.h"

namespace hybridgen::HYBRIDGEN_ISA {

namespace {

template <typename T>
void start(const SelectBackward& args, int64_t row, int64_t head, int64_t number) {
  using Scalar = Compute<T>;
  const SelectInputs& in = args.in;
  const int64_t first = number * kQueries, count = in.T - first < kQueries ? in.T - first : kQueries;
  const int64_t at = place(in, row, head, number), V = in.v.width;
  transpose_queries<T>(static_cast<Scalar*>(args.queries) + at * in.depth * kQueries, in, row, head, first, count);
  Scalar* dys = static_cast<Scalar*>(args.dys) + at * V * kQueries;
  transpose_rows<T>(dys, args.dy, row, head, first, count, Scalar(1));
  if (head == 0) {
    Scalar* to = static_cast<Scalar*>(args.chooser_queries);
    to += (row * in.blocks() + number) * in.chooser_depth * kQueries;
    transpose_choosers(to, in, row, first, count);
  }
  const T* y = static_cast<const T*>(args.y) + ((row * in.H + head) * in.T + first) * V;
  const Scalar* sums = static_cast<const Scalar*>(args.sums) + (row * in.H + head) * in.T + first;
  Scalar* inner = static_cast<Scalar*>(args.inner) + at * kQueries;
  Scalar* logs = static_cast<Scalar*>(args.logs) + at * kQueries;
  for (int64_t i = 0; i < kQueries; ++i) {
    Scalar total = 0;
    for (int64_t d = 0; d < V && i < count; ++d) total += dys[d * kQueries + i] * widen(y[i * V + d]);
    inner[i] = total;
    logs[i] = i < count ? sums[i] : 0;
  }
}

// Weights and the gradients of the logits in the panel of one head, from its scores and, in dscores, the products of
// values and dy; takes the latter off the gradient of what is hidden.
template <bool masked, typename Scalar>
static inline void differentiate_panel(
    const BackwardRoom<Scalar>& room, const Scalar* scores, const Scalar* logs, const Scalar* inner,
    const SelectInputs& in, const Block<Scalar>& block, int panel, int64_t tile, const Reach& reach) {
  constexpr int lanes = kLanes<Scalar>;
  const bool chooses = in.chooses();
  for (int v = 0; v < kPanelVectors; ++v) {
    const int lane = panel * kPanelLanes<Scalar> + v * lanes;
    const Vec<Scalar> log = load(logs + lane), product = load(inner + lane);
    for (int key = reach.first; key < reach.last; ++key) {
      const int at = key * kQueries + lane;
      Vec<Scalar> x = load(scores + at) - log;
      if (chooses) x -= load(room.hides + at);
      Vec<Scalar> weight = exp(x), slope = weight * (load(room.dscores + at) - product);
      if constexpr (masked) {
        const Lane<Scalar> seen = sees(in, block, lane, tile * kQueries + key);
        weight = seen ? weight : Vec<Scalar>{};
        slope = seen ? slope : Vec<Scalar>{};
      }
      store(room.weights + at, weight);
      store(room.dscores + at, slope);
      if (chooses) store(room.dhides + at, load(room.dhides + at) - slope);
    }
  }
}

// Zeros where a panel reaches no key.
template <typename Scalar>
static inline void clear_beyond(Scalar* square, int at, const Reach& reach) {
  for (int key = 0; key < kQueries; ++key) {
    if (key == reach.first) key = reach.last;
    if (key < kQueries) __builtin_memset(square + key * kQueries + at, 0, sizeof(Scalar) * kPanelLanes<Scalar>);
  }
}

// to [key][width] += square [key][query] rows [query][width].
template <typename Scalar>
static inline void add_to_keys(Scalar* to, const Scalar* square, const Scalar* rows, int64_t width, int64_t queries) {
  const int64_t stride = select_padded(width);
  for (int64_t c = 0; c < width; c += kPanelLanes<Scalar>) {
    for (int key = 0; key < kQueries; key += kRows) {
      product_rows<Start::kAdd, Scalar>(
          to + key * stride + c, stride, square + key * kQueries, kQueries, 1, rows + c, stride, queries, nullptr);
    }
  }
}

// to [width][query] += keys [key][width] transposed, times square [key][query], in all panels.
template <typename Scalar>
static inline void add_to_queries(
    Scalar* to, const Scalar* keys, const Scalar* square, int64_t width, const SelectInputs& in,
    const Block<Scalar>& block, int64_t tile) {
  const int64_t stride = select_padded(width);
  for (int panel = 0; panel < block.panels; ++panel) {
    const Reach reach = reach_of(in, block, panel, tile);
    const int at = panel * kPanelLanes<Scalar>;
    int64_t c = 0;
    for (; c + kRows <= width && reach.first < reach.last; c += kRows) {
      product_rows<Start::kAdd, Scalar>(
          to + c * kQueries + at, kQueries, keys + reach.first * stride + c, 1, stride,
          square + reach.first * kQueries + at, kQueries, reach.last - reach.first, nullptr);
    }
    for (; c < width; ++c) {
      for (int lane = at; lane < at + kPanelLanes<Scalar>; lane += kLanes<Scalar>) {
        Vec<Scalar> total = load(to + c * kQueries + lane);
        for (int key = reach.first; key < reach.last; ++key) {
          total += keys[key * stride + c] * load(square + key * kQueries + lane);
        }
        store(to + c * kQueries + lane, total);
      }
    }
  }
}

// What the gradient of a chooser's scores gets from that of G, in `to` or, if `add`, added to it.
template <bool add, typename Scalar>
static inline void choice_gradient(
    Scalar* to, const Scalar* scores, const Scalar* dhides, const SelectInputs& in, const Block<Scalar>& block,
    int64_t tile) {
  for (int key = 0; key < kQueries; ++key) {
    for (int lane = 0; lane < block.panels * kPanelLanes<Scalar>; lane += kLanes<Scalar>) {
      const int at = key * kQueries + lane;
      const Lane<Scalar> may = may_hide(in, block, lane, tile * kQueries + key) & (load(scores + at) > 0);
      const Vec<Scalar> slope = may ? load(dhides + at) : Vec<Scalar>{};
      store(to + at, add ? load(to + at) + slope : slope);
    }
  }
}

// The slope of the soft cap, given what came out of it.
template <typename Scalar>
static inline void uncap(Scalar* dscores, const Scalar* capped, Scalar cap, const SelectInputs& in,
                         const Block<Scalar>& block, int64_t tile) {
  for (int panel = 0; panel < block.panels; ++panel) {
    const Reach reach = reach_of(in, block, panel, tile);
    for (int key = reach.first; key < reach.last; ++key) {
      for (int v = 0; v < kPanelVectors; ++v) {
        const int at = key * kQueries + panel * kPanelLanes<Scalar> + v * kLanes<Scalar>;
        const Vec<Scalar> share = load(capped + at) / cap;
        store(dscores + at, load(dscores + at) * (1 - share * share));
      }
    }
  }
}

// From the gradient of F to that of G: a query's choice counts for all later ones, those of this block and those
// behind it.
template <typename Scalar>
static inline void sum_later(Scalar* dhides, Scalar* later) {
  for (int key = 0; key < kQueries; ++key) {
    Scalar behind = later[key];
    for (int lane = kQueries - 1; lane >= 0; --lane) {
      Scalar& own = dhides[key * kQueries + lane];
      const Scalar dF = own;
      own = behind;
      behind += dF;
    }
    later[key] = behind;
  }
}

// One head of one block and tile: gradients to its values, keys and queries.
template <typename T>
static inline void differentiate_head(
    const SelectBackward& args, const BackwardRoom<Compute<T>>& room, Compute<T>* part, const Block<Compute<T>>& block,
    int64_t number, int64_t tile, int64_t head) {
  using Scalar = Compute<T>;
  const SelectInputs& in = args.in;
  const int64_t at = place(in, block.row, head, number), slot = head / args.heads_per_slot;
  const int64_t value_head = head / (in.H / in.v.heads);
  const Scalar* queries = static_cast<const Scalar*>(args.queries) + at * in.depth * kQueries;
  const Scalar* dys = static_cast<const Scalar*>(args.dys) + at * in.v.width * kQueries;
  const Scalar* logs = static_cast<const Scalar*>(args.logs) + at * kQueries;
  const Scalar* inner = static_cast<const Scalar*>(args.inner) + at * kQueries;
  const Scalar* keys = room.keys + slot * room.depth * kQueries;
  const bool own = head == in.selection_head;
  Scalar* scores = own ? room.chosen : room.scores;
  if (!own) score_tile(scores, keys, queries, in, block, head, tile);
  const Scalar* values = room.values + value_head * room.V * kQueries;
  for (int panel = 0; panel < kPanels<Scalar>; ++panel) {
    const Reach reach = panel < block.panels ? reach_of(in, block, panel, tile) : Reach{0, 0, true};
    const int lane = panel * kPanelLanes<Scalar>;
    score_panel(room.dscores + lane, values, room.V, dys + lane, in.v.width, reach.first, reach.last);
    if (reach.all) {
      differentiate_panel<false>(room, scores, logs, inner, in, block, panel, tile, reach);
    } else {
      differentiate_panel<true>(room, scores, logs, inner, in, block, panel, tile, reach);
    }
    clear_beyond(room.weights, lane, reach);
    clear_beyond(room.dscores, lane, reach);
  }
  Vec<Scalar> odd{};
  for (int64_t i = 0; i < block.count; ++i) {
    const T* dy = static_cast<const T*>(args.dy.data) + block.row * args.dy.batch + head * args.dy.head;
    widen_row(room.dy_rows + i * room.V, dy + (block.first + i) * args.dy.time, in.v.width, room.V, odd);
  }
  add_to_keys(room.dvalues + value_head * room.V * kQueries, room.weights, room.dy_rows, in.v.width, block.count);
  if (own) {
    if (in.over_time) sum_later(room.dhides, room.later);
    choice_gradient<true>(room.dscores, room.chosen, room.dhides, in, block, tile);
  }
  if (in.capped) uncap(room.dscores, scores, static_cast<Scalar>(in.softcap), in, block, tile);
  query_rows<T>(room.query_rows, in, block, head);
  add_to_keys(room.dkeys + slot * room.depth * kQueries, room.dscores, room.query_rows, in.depth, block.count);
  add_to_queries(
      part + (head * in.blocks() + number) * in.depth * kQueries, keys, room.dscores, in.depth, in, block, tile);
}

// The gradients of the choosers beside the selection head, from that of G.
template <typename T>
static inline void differentiate_choosers(
    const SelectBackward& args, const BackwardRoom<Compute<T>>& room, Compute<T>* part, const Block<Compute<T>>& block,
    int64_t number, int64_t tile) {
  using Scalar = Compute<T>;
  const SelectInputs& in = args.in;
  const Scalar* queries = static_cast<const Scalar*>(args.chooser_queries);
  queries += (block.row * in.blocks() + number) * in.chooser_depth * kQueries;
  Scalar *keys = room.chooser_keys, *dkeys = room.chooser_dkeys;
  part += in.blocks() * in.H * in.depth * kQueries + number * in.chooser_depth * kQueries;
  for (int64_t i = 0; i < in.chooser_count; ++i) {
    const SelectPair& pair = in.choosers[i];
    const int64_t width = pair.k.width, stride = select_padded(width);
    __builtin_memset(room.scores, 0, sizeof(Scalar) * kSquare);
    for (int panel = 0; panel < block.panels; ++panel) {
      const Reach reach = reach_of(in, block, panel, tile);
      const int lane = panel * kPanelLanes<Scalar>;
      score_panel(room.scores + lane, keys, stride, queries + lane, width, reach.first, reach.last);
      cap_panel(room.scores, in, panel, reach);
    }
    __builtin_memset(room.dscores, 0, sizeof(Scalar) * kSquare);
    choice_gradient<false>(room.dscores, room.scores, room.dhides, in, block, tile);
    if (in.capped) uncap(room.dscores, room.scores, static_cast<Scalar>(in.softcap), in, block, tile);
    widen_chooser(room.chooser_rows, pair.q, block.row, block.first, in.T);
    add_to_keys(dkeys, room.dscores, room.chooser_rows, width, block.count);
    add_to_queries(part, keys, room.dscores, width, in, block, tile);
    queries += width * kQueries, part += width * kQueries;
    keys += stride * kQueries, dkeys += stride * kQueries;
  }
}

// One tile of keys and one block of queries.
template <typename T>
static inline void differentiate_block(
    const SelectBackward& args, const BackwardRoom<Compute<T>>& room, Compute<T>* part, const Block<Compute<T>>& block,
    int64_t number, int64_t tile) {
  using Scalar = Compute<T>;
  const SelectInputs& in = args.in;
  const int64_t own = in.selection_head, first = tile * kQueries;
  if (in.chooses()) {
    if (own >= 0) {
      const Scalar* queries =
          static_cast<const Scalar*>(args.queries) + place(in, block.row, own, number) * in.depth * kQueries;
      const Scalar* keys = room.keys + own / args.heads_per_slot * room.depth * kQueries;
      score_tile(room.chosen, keys, queries, in, block, own, tile);
    }
    const Scalar* chooser_queries = static_cast<const Scalar*>(args.chooser_queries) +
                                    (block.row * in.blocks() + number) * in.chooser_depth * kQueries;
    const Selector<Scalar> selector{nullptr, chooser_queries, room.chooser_rows, room.scores};
    hide_tile(room.hides, own >= 0 ? room.chosen : nullptr, in, block, selector, tile);
    if (in.over_time) {
      const Scalar* before = static_cast<const Scalar*>(args.before);
      before += (block.row * in.blocks() + number) * in.S + first;
      accumulate(room.hides, before, in.S - first < kQueries ? in.S - first : kQueries);
    }
    __builtin_memset(room.dhides, 0, sizeof(Scalar) * kSquare);
  }
  for (int64_t head = 0; head < in.H; ++head) {
    if (head != own) differentiate_head<T>(args, room, part, block, number, tile, head);
  }
  // The selection head comes last: its scores' gradient needs what all heads have against the hidden.
  if (own >= 0) differentiate_head<T>(args, room, part, block, number, tile, own);
  if (own < 0 && in.chooses() && in.over_time) sum_later(room.dhides, room.later);
  if (in.chooser_count) differentiate_choosers<T>(args, room, part, block, number, tile);
}

template <typename T>
void differentiate(const SelectBackward& args, int64_t worker, int64_t row, int64_t slice) {
  using Scalar = Compute<T>;
  const SelectInputs& in = args.in;
  const BackwardRoom<Scalar> room(args, worker);
  Scalar* part = static_cast<Scalar*>(args.parts) + worker * args.part_size;
  __builtin_memset(part, 0, sizeof(Scalar) * args.part_size);
  const int64_t tiles = (in.S + kQueries - 1) / kQueries;
  Block<Scalar> block;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    // Earlier tiles have more queries; there and back again over the slices, all get about as much.
    const int64_t turn = tile % (2 * args.slices);
    if ((turn < args.slices ? turn : 2 * args.slices - 1 - turn) != slice) continue;
    read_tile<T>(args, room, row, tile);
    for (int64_t number = in.blocks() - 1; number >= 0; --number) {
      set_block(block, in, row, number);
      if (tile < block.first_tile() || tile > block.last_tile()) continue;
      differentiate_block<T>(args, room, part, block, number, tile);
    }
    write_tile<T>(args, room, row, tile);
  }
}

// The gradients of one head's block of queries, or with head H of the choosers', from all parts of a row.
template <typename Scalar>
void end(const SelectBackward& args, int64_t first_part, int64_t row, int64_t head, int64_t number) {
  const SelectInputs& in = args.in;
  const bool choosers = head == in.H;
  const int64_t depth = choosers ? in.chooser_depth : in.depth;
  const int64_t at = choosers ? in.blocks() * in.H * in.depth * kQueries : head * in.blocks() * depth * kQueries;
  Scalar* total = static_cast<Scalar*>(args.parts) + first_part * args.part_size + at + number * depth * kQueries;
  const int64_t first = number * kQueries, count = in.T - first < kQueries ? in.T - first : kQueries;
  for (int64_t slice = 1; slice < args.slices; ++slice) {
    const Scalar* more = total + slice * args.part_size;
    for (int64_t i = 0; i < depth * kQueries; i += kLanes<Scalar>) store(total + i, load(total + i) + load(more + i));
  }
  const int64_t pairs = choosers ? in.chooser_count : in.pair_count;
  for (int64_t i = 0; i < pairs; ++i) {
    const SelectRows& q = (choosers ? in.choosers : in.pairs)[i].q;
    const int64_t width = q.width, heads = choosers ? 1 : in.H;
    const int64_t to = ((row * heads + (choosers ? 0 : head)) * in.T + first) * width;
    const Scalar factor = choosers ? Scalar(1) : static_cast<Scalar>(in.scale);
    with_chooser<Scalar>(q.element, [&]<typename C>() {
      C* dq = static_cast<C*>((choosers ? args.dchooser_q : args.dq)[i]) + to;
      for (int64_t t = 0; t < count; ++t)
        for (int64_t c = 0; c < width; ++c) narrow(total[c * kQueries + t] * factor, dq[t * width + c]);
    });
    total += width * kQueries;
  }
}

template <typename Scalar>
void sinks(const SelectBackward& args, int64_t first_head, int64_t last_head) {
  const SelectInputs& in = args.in;
  for (int64_t head = first_head; head < last_head; ++head) {
    const Scalar sink = static_cast<const Scalar*>(in.sinks)[head];
    Vec<Scalar> total{};
    for (int64_t row = 0; row < in.batch; ++row) {
      const int64_t at = place(in, row, head, 0) * kQueries;
      const Scalar* logs = static_cast<const Scalar*>(args.logs) + at;
      const Scalar* inner = static_cast<const Scalar*>(args.inner) + at;
      // Behind the last query the inner products are zero.
      for (int64_t i = 0; i < in.blocks() * kQueries; i += kLanes<Scalar>) {
        total -= exp(sink - load(logs + i)) * load(inner + i);
      }
    }
    static_cast<Scalar*>(args.dsinks)[head] = sum<Scalar>(total);
  }
}

}  // namespace

void select_backward_start(const SelectBackward& args, int64_t row, int64_t head, int64_t block) {
  with_element(args.in.element, [&]<typename T>() { start<T>(args, row, head, block); });
}

void select_backward(const SelectBackward& args, int64_t worker, int64_t row, int64_t slice) {
  with_element(args.in.element, [&]<typename T>() { differentiate<T>(args, worker, row, slice); });
}

void select_backward_end(const SelectBackward& args, int64_t first_part, int64_t row, int64_t head, int64_t block) {
  with_element(args.in.element, [&]<typename T>() { end<Compute<T>>(args, first_part, row, head, block); });
}

void select_backward_sinks(const SelectBackward& args, int64_t first_head, int64_t last_head) {
  with_element(args.in.element, [&]<typename T>() { sinks<Compute<T>>(args, first_head, last_head); });
}

}  // namespace hybridgen::HYBRIDGEN_ISA
