#pragma once

#include "kernels.h"

namespace hybridgen {

// Queries per block, and keys per tile. Scores are computed in squares of both, whose rows are keys and whose lanes are
// queries: softmax and sums over keys then stay within a lane. What is hidden is kept per block of queries.
constexpr int kSelectBlock = 64;
// Keys per job of the first pass.
constexpr int64_t kSelectSpan = 1024;

// A tensor (batch, heads, time, width) whose last dimension is dense; strides in elements. Without heads its head
// stride is 0.
struct SelectRows {
  const void* data;
  int64_t batch, head, time, heads, width;
  Element element;
};

// Queries and keys whose products are scores.
struct SelectPair {
  SelectRows q, k;
};

// Tables of scores (batch, H, T, S) whose queries are dense; strides in elements of the arithmetic's dtype. The
// products of q and k are added to `before`, if there is one, and the sum, for every key up to the query, written to
// `total`, which may be `before`; `share` times the sum is what attends.
struct SelectTable {
  const void* before;
  void* total;
  int64_t before_batch, before_head, before_key, total_batch, total_head, total_key;
  double share;
};

// Sizes, and the arguments that all passes share. Choosers may have the dtype of the arithmetic; the other tensors with
// rows have one dtype. sinks, slopes (H) and hidden (batch, S - T) have the dtype of the
// arithmetic and are dense; they and the other pointers may be null.
struct SelectInputs {
  const SelectPair *pairs, *choosers;
  int64_t pair_count, chooser_count;
  SelectRows v;
  const void *sinks, *slopes, *hidden;
  const int64_t *starts, *until;
  const SelectTable* table;  // null outside the operator that has one
  int64_t starts_batch, starts_time, until_batch, until_time;
  int64_t batch, H, T, S;
  // The widths of all pairs, and of all choosers, together.
  int64_t depth, chooser_depth;
  int64_t selection_head, window;  // -1: no such head; window at most S
  double scale, softcap;
  bool capped, protect, causal, over_time;
  Element element;

  int64_t blocks() const { return (T + kSelectBlock - 1) / kSelectBlock; }
  bool chooses() const { return selection_head >= 0 || chooser_count > 0; }
};

// Rows in scratch memory are padded to whole panels of any instruction set.
static constexpr int64_t select_padded(int64_t width) { return (width + 31) / 32 * 32; }

// The first pass: what each block's queries hide of each key, into `sums` (batch, blocks, S), between low and high of
// the block. One job is a block's part of kSelectSpan keys.
struct SelectSums {
  SelectInputs in;
  void *sums, *scratch;
  int64_t scratch_size, spans;
};

static constexpr int64_t select_sums_scratch(int64_t depth, int64_t chooser_depth) {
  constexpr int64_t Q = kSelectBlock;
  return Q * (depth + chooser_depth + select_padded(depth > chooser_depth ? depth : chooser_depth)) + 2 * Q * Q;
}

// Between the passes: sums become F at the start of each block, and `after` (batch, S) is F after the last. `sums` is
// null if nothing is added.
struct SelectPrefix {
  SelectInputs in;
  void *sums, *after;
};

// The second pass: y (batch, H, T, V), dense, and the logarithms of the softmax's sums (batch, H, T), or null. `before`
// is F at each block (batch, blocks, S), or null where nothing adds up. One job is a block and `heads` of its heads.
struct SelectForward {
  SelectInputs in;
  const void* before;
  void *y, *sums, *scratch;
  int64_t scratch_size, heads;

  int64_t groups() const { return (in.H + heads - 1) / heads; }
};

static constexpr int64_t select_forward_scratch(
    int64_t heads, int64_t depth, int64_t chooser_depth, int64_t V) {
  constexpr int64_t Q = kSelectBlock;
  const int64_t widest = depth > chooser_depth ? depth : chooser_depth;
  return Q * (heads * (depth + select_padded(V) + 2) + depth + chooser_depth + select_padded(widest)) +
         Q * select_padded(V) + 3 * Q * Q + 2 * Q;
}

// One query per row of the batch. A job is a row's part of kSelectStep keys, and leaves per head a maximum, a sum and
// V weighted sums in `parts` (batch, spans, H, V + 2); the end of each head joins them. Keys and values are read once,
// where they lie.
constexpr int64_t kSelectStep = 256;

struct SelectStep {
  SelectInputs in;
  void *y, *after, *parts, *scratch;
  int64_t scratch_size, spans;
};

static constexpr int64_t select_step_scratch(int64_t H, int64_t depth, int64_t chooser_depth) {
  return H * depth + chooser_depth + 3 * kSelectBlock + 64;
}

// The backward pass, in three steps. Per head and block, queries and gradients are transposed first. Then each slice of
// a row's key tiles goes through the blocks from the last to the first, with the gradients of its keys and values in
// hand, and adds those of the queries to a part of its own; at last the parts are summed. Outputs are dense, those of
// lists one pointer each.
struct SelectBackward {
  SelectInputs in;
  const void *y, *sums, *before, *dafter;  // before is null where nothing adds up
  SelectRows dy;
  // Per row, head and block [depth or V][kSelectBlock], and [kSelectBlock] logarithms of sums and inner products.
  void *queries, *dys, *chooser_queries, *logs, *inner;
  void *parts, *scratch;  // per worker
  int64_t part_size, scratch_size, slices;
  int64_t heads_per_slot;  // consecutive query heads that have all their keys in common
  void *const *dq, *const *dk, *const *dchooser_q, *const *dchooser_k;
  void *dv, *dsinks, *dhidden;

  int64_t slots() const { return in.H / heads_per_slot; }
};

static constexpr int64_t select_backward_part(int64_t blocks, int64_t H, int64_t depth, int64_t chooser_depth) {
  return blocks * kSelectBlock * (H * depth + chooser_depth);
}

static constexpr int64_t select_backward_scratch(
    int64_t slots, int64_t depth, int64_t value_heads, int64_t V, int64_t choosers, int64_t chooser_depth) {
  constexpr int64_t Q = kSelectBlock;
  const int64_t padded_choosers = chooser_depth + 32 * choosers;
  return Q * ((2 * slots + 1) * select_padded(depth) + (2 * value_heads + 1) * select_padded(V) + 3 * padded_choosers) +
         6 * Q * Q + 2 * Q;
}

}  // namespace hybridgen

HYBRIDGEN_KERNEL(select_sums, const hybridgen::SelectSums& args, int64_t worker, int64_t job)
HYBRIDGEN_KERNEL(select_prefix, const hybridgen::SelectPrefix& args, int64_t row, int64_t first_key, int64_t last_key)
HYBRIDGEN_KERNEL(select_forward, const hybridgen::SelectForward& args, int64_t worker, int64_t job)
HYBRIDGEN_KERNEL(select_step, const hybridgen::SelectStep& args, int64_t worker, int64_t job)
HYBRIDGEN_KERNEL(select_step_end, const hybridgen::SelectStep& args, int64_t first_head, int64_t last_head)
HYBRIDGEN_KERNEL(select_backward_start, const hybridgen::SelectBackward& args, int64_t row, int64_t head, int64_t block)
HYBRIDGEN_KERNEL(select_backward, const hybridgen::SelectBackward& args, int64_t worker, int64_t row, int64_t slice)
HYBRIDGEN_KERNEL(
    select_backward_end, const hybridgen::SelectBackward& args, int64_t first_part, int64_t row, int64_t head,
    int64_t block)
HYBRIDGEN_KERNEL(select_backward_sinks, const hybridgen::SelectBackward& args, int64_t first_head, int64_t last_head)
