// Selective attention of one query per row of the batch, as in decoding. Its time is the reading of keys and values, so
// they are read once, in the dtype they have, and the keys are split over the threads.
#include "selective_tile.h"

namespace hybridgen::HYBRIDGEN_ISA {

namespace {

constexpr int kKeys = kSelectBlock;  // keys whose scores are in hand at once

// The keys first ... first + count - 1 of the query of one row, which sees none before `low`.
struct Span {
  int64_t row, first;
  int count;
  int64_t start, low;
};

template <typename Scalar>
struct StepRoom {
  Scalar *queries, *chooser_queries, *scores, *chosen, *hides;

  StepRoom(const SelectStep& args, int64_t worker) {
    const SelectInputs& in = args.in;
    scores = static_cast<Scalar*>(args.scratch) + worker * args.scratch_size;
    chosen = scores + kKeys;
    hides = chosen + kKeys;
    queries = hides + kKeys;
    chooser_queries = queries + in.H * in.depth;
  }
};

// scores[key] += query . key, for the keys of a span.
template <typename T>
static inline void add_products(
    Compute<T>* scores, const Compute<T>* query, const SelectRows& k, int64_t head, const Span& span) {
  using Scalar = Compute<T>;
  constexpr int lanes = kLanes<Scalar>, together = 4;
  const T* keys = static_cast<const T*>(k.data) + span.row * k.batch + head * k.head + span.first * k.time;
  for (int key = 0; key < span.count; key += together) {
    const T* rows[together];
#pragma GCC unroll 4
    for (int i = 0; i < together; ++i) rows[i] = keys + (key + i < span.count ? key + i : span.count - 1) * k.time;
    Vec<Scalar> sums[together] = {};
    int64_t c = 0;
    for (; c + lanes <= k.width; c += lanes) {
      const Vec<Scalar> factor = load(query + c);
#pragma GCC unroll 4
      for (int i = 0; i < together; ++i) sums[i] += factor * load(rows[i] + c);
    }
    if (c < k.width) {
      const int rest = static_cast<int>(k.width - c);
      const Vec<Scalar> factor = load_part(query + c, rest);
      for (int i = 0; i < together; ++i) sums[i] += factor * load_part(rows[i] + c, rest);
    }
    for (int i = 0; i < together && key + i < span.count; ++i) scores[key + i] += sum_by_halves<Scalar>(sums[i]);
  }
}

template <typename Scalar>
static inline void cap_span(Scalar* scores, Scalar cap) {
  for (int key = 0; key < kKeys; key += kLanes<Scalar>) store(scores + key, soft_capped(load(scores + key), cap));
}

// Adds what stands in the table to scores, writes the sum there, and takes the share of it.
template <typename Scalar>
static inline void exchange_span(Scalar* scores, const SelectInputs& in, int64_t head, const Span& span) {
  const SelectTable& table = *in.table;
  const Scalar* before = static_cast<const Scalar*>(table.before);
  Scalar* total = static_cast<Scalar*>(table.total) + span.row * table.total_batch + head * table.total_head;
  if (before) before += span.row * table.before_batch + head * table.before_head;
  for (int i = 0; i < span.count; ++i) {
    const Scalar sum = scores[i] + (before ? before[(span.first + i) * table.before_key] : Scalar(0));
    total[(span.first + i) * table.total_key] = sum;
    scores[i] = sum * static_cast<Scalar>(table.share);
  }
}

// The scores of one head, biased and capped; zeros behind the span.
template <typename T>
static inline void score_span(
    Compute<T>* scores, const StepRoom<Compute<T>>& room, const SelectInputs& in, int64_t head, const Span& span) {
  using Scalar = Compute<T>;
  __builtin_memset(scores, 0, sizeof(Scalar) * kKeys);
  const Scalar* query = room.queries + head * in.depth;
  for (int64_t i = 0; i < in.pair_count; ++i) {
    const SelectRows& k = in.pairs[i].k;
    add_products<T>(scores, query, k, head / (in.H / k.heads), span);
    query += k.width;
  }
  if (in.table) exchange_span(scores, in, head, span);
  if (in.slopes) {
    const Scalar slope = static_cast<const Scalar*>(in.slopes)[head];
    for (int key = 0; key < span.count; ++key) scores[key] -= slope * static_cast<Scalar>(in.S - 1 - span.first - key);
  }
  if (in.capped) cap_span(scores, static_cast<Scalar>(in.softcap));
}

static inline bool sees(const SelectInputs& in, const Span& span, int64_t key) {
  return key >= span.low && !(in.until && in.until[span.row * in.until_batch + key * in.until_time] <= in.S - 1);
}

template <typename Scalar>
static inline void add_choices(Scalar* hides, const Scalar* scores, const SelectInputs& in, const Span& span) {
  for (int i = 0; i < span.count; ++i) {
    const int64_t key = span.first + i;
    const bool may = sees(in, span, key) && key != in.S - 1 && !(in.protect && key == span.start);
    if (may && !(scores[i] <= 0)) hides[i] += scores[i];
  }
}

// G of the span into room.hides, the selection head's scores into room.chosen.
template <typename T>
static inline void hide_span(const StepRoom<Compute<T>>& room, const SelectInputs& in, const Span& span) {
  using Scalar = Compute<T>;
  __builtin_memset(room.hides, 0, sizeof(Scalar) * kKeys);
  if (in.selection_head >= 0) {
    score_span<T>(room.chosen, room, in, in.selection_head, span);
    add_choices(room.hides, room.chosen, in, span);
  }
  const Scalar* query = room.chooser_queries;
  for (int64_t i = 0; i < in.chooser_count; ++i) {
    __builtin_memset(room.scores, 0, sizeof(Scalar) * kKeys);
    with_chooser<Scalar>(in.choosers[i].k.element, [&]<typename C>() {
      add_products<C>(room.scores, query, in.choosers[i].k, 0, span);
    });
    if (in.capped) cap_span(room.scores, static_cast<Scalar>(in.softcap));
    add_choices(room.hides, room.scores, in, span);
    query += in.choosers[i].k.width;
  }
}

// Joins a span into one head's part: its maximum, its sum and its weighted sums.
template <typename Scalar>
static inline Scalar join(Scalar* part, Scalar highest, int64_t width) {
  const Scalar offset = highest == -__builtin_inf() ? Scalar(0) : highest;
  if (highest == part[0]) return offset;
  const Scalar factor = part[0] == -__builtin_inf() ? Scalar(0) : static_cast<Scalar>(::exp(part[0] - offset));
  for (int64_t i = 1; i < width + 2; ++i) part[i] *= factor;
  part[0] = highest;
  return offset;
}

template <typename T>
static inline void add_values(Compute<T>* sums, const Compute<T>* weights, const T* values, int64_t stride,
                              int64_t width, int count) {
  using Scalar = Compute<T>;
  constexpr int lanes = kLanes<Scalar>, together = 4;
  int64_t d = 0;
  for (; d + together * lanes <= width; d += together * lanes) {
    Vec<Scalar> totals[together];
#pragma GCC unroll 4
    for (int i = 0; i < together; ++i) totals[i] = load(sums + d + i * lanes);
    for (int key = 0; key < count; ++key) {
      // Where a key is not seen its value may be anything.
      if (weights[key] == 0) continue;
      const Vec<Scalar> weight = splat<Scalar>(weights[key]);
#pragma GCC unroll 4
      for (int i = 0; i < together; ++i) totals[i] += weight * load(values + key * stride + d + i * lanes);
    }
#pragma GCC unroll 4
    for (int i = 0; i < together; ++i) store(sums + d + i * lanes, totals[i]);
  }
  for (int key = 0; key < count && d < width; ++key) {
    if (weights[key] == 0) continue;
    int64_t i = d;
    for (; i + lanes <= width; i += lanes) {
      store(sums + i, load(sums + i) + splat<Scalar>(weights[key]) * load(values + key * stride + i));
    }
    for (; i < width; ++i) sums[i] += weights[key] * widen(values[key * stride + i]);
  }
}

template <typename T>
static inline void attend_span(
    Compute<T>* part, Compute<T>* scores, const Compute<T>* hidden, const LaneNumber<Compute<T>>* seen,
    const SelectInputs& in, int64_t head, const Span& span) {
  using Scalar = Compute<T>;
  const Vec<Scalar> lowest = splat<Scalar>(static_cast<Scalar>(-__builtin_inf()));
  Vec<Scalar> greatest = lowest;
  for (int i = 0; i < kKeys; i += kLanes<Scalar>) {
    Lane<Scalar> is_seen;
    __builtin_memcpy(&is_seen, seen + i, sizeof is_seen);
    const Vec<Scalar> score = is_seen ? load(scores + i) - load(hidden + i) : lowest;
    store(scores + i, score);
    // A NaN stays one whatever the maximum is.
    greatest = score > greatest ? score : greatest;
  }
  Scalar highest = part[0];
  for (int lane = 0; lane < kLanes<Scalar>; ++lane) {
    if (greatest[lane] > highest) highest = greatest[lane];
  }
  const Scalar offset = join(part, highest, in.v.width);
  Vec<Scalar> total{};
  for (int i = 0; i < kKeys; i += kLanes<Scalar>) {
    const Vec<Scalar> weight = exp(load(scores + i) - offset);
    store(scores + i, weight);
    total += weight;
  }
  part[1] += sum_by_halves<Scalar>(total);
  const T* values = static_cast<const T*>(in.v.data) + span.row * in.v.batch + head / (in.H / in.v.heads) * in.v.head;
  add_values<T>(part + 2, scores, values + span.first * in.v.time, in.v.time, in.v.width, span.count);
}

template <typename T>
static inline void widen_queries(const StepRoom<Compute<T>>& room, const SelectInputs& in, int64_t row) {
  using Scalar = Compute<T>;
  Scalar* to = room.queries;
  for (int64_t head = 0; head < in.H; ++head)
    for (int64_t i = 0; i < in.pair_count; ++i) {
      const SelectRows& q = in.pairs[i].q;
      const T* from = static_cast<const T*>(q.data) + row * q.batch + head * q.head;
      for (int64_t c = 0; c < q.width; ++c) *to++ = widen(from[c]) * static_cast<Scalar>(in.scale);
    }
  for (int64_t i = 0; i < in.chooser_count; ++i) {
    const SelectRows& q = in.choosers[i].q;
    with_chooser<Scalar>(q.element, [&]<typename C>() {
      const C* from = static_cast<const C*>(q.data) + row * q.batch;
      for (int64_t c = 0; c < q.width; ++c) *to++ = widen(from[c]);
    });
  }
}

template <typename T>
void step(const SelectStep& args, int64_t worker, int64_t job) {
  using Scalar = Compute<T>;
  const SelectInputs& in = args.in;
  const int64_t row = job / args.spans, first = job % args.spans * kSelectStep, width = in.v.width + 2;
  const int64_t end = first + kSelectStep < in.S ? first + kSelectStep : in.S;
  const StepRoom<Scalar> room(args, worker);
  widen_queries<T>(room, in, row);
  Scalar* parts = static_cast<Scalar*>(args.parts) + job * in.H * width;
  for (int64_t head = 0; head < in.H; ++head) {
    __builtin_memset(parts + head * width, 0, sizeof(Scalar) * width);
    parts[head * width] = static_cast<Scalar>(-__builtin_inf());
  }
  const int64_t start = in.starts ? in.starts[row * in.starts_batch] : 0;
  const int64_t low = start > in.S - in.window ? start : in.S - in.window;
  const Scalar* hidden = in.hidden ? static_cast<const Scalar*>(in.hidden) + row * (in.S - 1) : nullptr;
  for (int64_t key = first; key < end; key += kKeys) {
    const Span span{row, key, static_cast<int>(end - key < kKeys ? end - key : kKeys), start, low};
    Scalar* after = static_cast<Scalar*>(args.after) + row * in.S + key;
    for (int i = 0; i < span.count; ++i) after[i] = hidden && key + i < in.S - 1 ? hidden[key + i] : Scalar(0);
    if (key + span.count <= low && !in.table) continue;
    if (in.chooses()) hide_span<T>(room, in, span);
    alignas(64) Scalar off[kKeys] = {};
    alignas(64) LaneNumber<Scalar> seen[kKeys];
    for (int i = 0; i < kKeys; ++i) seen[i] = i < span.count && sees(in, span, key + i) ? -1 : 0;
    for (int i = 0; i < span.count && in.chooses(); ++i) {
      off[i] = in.over_time ? after[i] : room.hides[i];
      if (in.over_time) after[i] += room.hides[i];
    }
    for (int64_t head = 0; head < in.H; ++head) {
      Scalar* scores = head == in.selection_head ? room.chosen : room.scores;
      if (head != in.selection_head) score_span<T>(scores, room, in, head, span);
      attend_span<T>(parts + head * width, scores, off, seen, in, head, span);
    }
  }
}

template <typename T>
void end_heads(const SelectStep& args, int64_t first_head, int64_t last_head) {
  using Scalar = Compute<T>;
  const SelectInputs& in = args.in;
  const int64_t V = in.v.width, width = V + 2;
  for (int64_t i = first_head; i < last_head; ++i) {
    const int64_t row = i / in.H, head = i % in.H;
    Scalar* total = static_cast<Scalar*>(args.parts) + (row * args.spans * in.H + head) * width;
    for (int64_t span = 1; span < args.spans; ++span) {
      const Scalar* part = total + span * in.H * width;
      if (part[0] == -__builtin_inf() && part[1] == 0) continue;
      const Scalar offset = join(total, part[0] > total[0] ? part[0] : total[0], V);
      const Scalar factor = static_cast<Scalar>(::exp(part[0] - offset));
      for (int64_t c = 1; c < width; ++c) total[c] += factor * part[c];
    }
    if (in.sinks) {
      const Scalar sink = static_cast<const Scalar*>(in.sinks)[head];
      const Scalar offset = join(total, sink > total[0] ? sink : total[0], V);
      total[1] += static_cast<Scalar>(::exp(sink - offset));
    }
    T* y = static_cast<T*>(args.y) + i * V;
    for (int64_t d = 0; d < V; ++d) narrow(total[d + 2] / total[1], y[d]);
  }
}

}  // namespace

void select_step(const SelectStep& args, int64_t worker, int64_t job) {
  with_element(args.in.element, [&]<typename T>() { step<T>(args, worker, job); });
}

void select_step_end(const SelectStep& args, int64_t first_head, int64_t last_head) {
  with_element(args.in.element, [&]<typename T>() { end_heads<T>(args, first_head, last_head); });
}

}  // namespace hybridgen::HYBRIDGEN_ISA
