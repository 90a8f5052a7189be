// Which keys a block of queries sees in selective attention, and which it may hide.
//
// A tile of scores is [key][query]: kSelectBlock rows of as many lanes. Its columns are worked on in panels, as many
// lanes as two vectors have.
#pragma once

#include "../selective_attention.h"
#include "vec.h"

namespace hybridgen::HYBRIDGEN_ISA {

constexpr int kQueries = kSelectBlock;
constexpr int kPanelVectors = 2;
// Rows of a product that stay in registers.
#if defined(__AVX512F__)
constexpr int kRows = 8;
#else
constexpr int kRows = 4;
#endif
template <typename Scalar>
constexpr int kPanelLanes = kPanelVectors * kLanes<Scalar>;
template <typename Scalar>
constexpr int kPanels = kQueries / kPanelLanes<Scalar>;

template <typename Scalar>
using Lane = typename VecOf<Scalar>::mask;
template <typename Scalar>
using LaneNumber = decltype(Lane<Scalar>{}[0] + 0);

static inline int64_t row_tiles(int64_t count) { return (count + kRows - 1) / kRows * kRows; }

// A block of queries: each lane's index as a key, the key with which its sequence starts, and the first and last key
// within its reach. Lanes behind the last query see nothing.
template <typename Scalar>
struct Block {
  alignas(64) LaneNumber<Scalar> index[kQueries], start[kQueries], low[kQueries], high[kQueries];
  // The keys that any of a panel's queries can reach, and those that all can.
  int64_t panel_low[kPanels<Scalar>], panel_high[kPanels<Scalar>], all_low[kPanels<Scalar>], all_high[kPanels<Scalar>];
  int64_t row, first, count, low_key, high_key;
  int panels;  // those with a query

  int64_t first_tile() const { return low_key / kQueries; }
  int64_t last_tile() const { return high_key / kQueries; }
};

template <typename Scalar>
static inline void set_block(Block<Scalar>& block, const SelectInputs& in, int64_t row, int64_t number) {
  block.row = row;
  block.first = number * kQueries;
  block.count = in.T - block.first < kQueries ? in.T - block.first : kQueries;
  constexpr int lanes = kPanelLanes<Scalar>;
  block.panels = static_cast<int>((block.count + lanes - 1) / lanes);
  const int64_t* starts = in.starts ? in.starts + row * in.starts_batch : nullptr;
  block.low_key = in.S;
  block.high_key = -1;
  for (int i = 0; i < kQueries; ++i) {
    const int64_t index = in.S - in.T + block.first + i;
    const int64_t start = starts && i < block.count ? starts[(block.first + i) * in.starts_time] : 0;
    int64_t low = in.causal && start > 0 ? start : 0;
    if (low < index - in.window + 1) low = index - in.window + 1;
    const int64_t high = i >= block.count ? -1 : in.causal ? index : in.S - 1;
    block.index[i] = static_cast<LaneNumber<Scalar>>(index);
    block.start[i] = static_cast<LaneNumber<Scalar>>(start);
    block.low[i] = static_cast<LaneNumber<Scalar>>(low);
    block.high[i] = static_cast<LaneNumber<Scalar>>(high);
    const int p = i / lanes;
    if (i % lanes == 0) {
      block.panel_low[p] = block.all_low[p] = low;
      block.panel_high[p] = block.all_high[p] = high;
    }
    if (i >= block.count) continue;
    if (low < block.panel_low[p]) block.panel_low[p] = low;
    if (low > block.all_low[p]) block.all_low[p] = low;
    if (in.table) block.panel_low[p] = 0;  // later layers may look further back than this one
    if (high > block.panel_high[p]) block.panel_high[p] = high;
    if (high < block.all_high[p]) block.all_high[p] = high;
    if (block.panel_low[p] < block.low_key) block.low_key = block.panel_low[p];
    if (high > block.high_key) block.high_key = high;
  }
}

// The keys of a tile that a panel's queries can reach, in whole rows of tiles, and whether each query sees each.
struct Reach {
  int first, last;
  bool all;
};

template <typename Scalar>
static inline Reach reach_of(const SelectInputs& in, const Block<Scalar>& block, int panel, int64_t tile) {
  const int64_t base = tile * kQueries, end = base + kQueries;
  const int64_t low = block.panel_low[panel] - base, high = block.panel_high[panel] + 1 - base;
  if (low >= kQueries || high <= 0) return {0, 0, true};
  const int first = low > 0 ? static_cast<int>(low / kRows * kRows) : 0;
  const int last = high < kQueries ? static_cast<int>(row_tiles(high)) : kQueries;
  bool all = block.all_low[panel] <= base + first && block.all_high[panel] >= base + last - 1;
  if (!in.causal && in.starts) all = false;
  if (all && in.until) {
    const int64_t* until = in.until + block.row * in.until_batch;
    const int64_t query = block.index[panel * kPanelLanes<Scalar> + kPanelLanes<Scalar> - 1];
    for (int64_t key = base + first; key < base + last && key < end && key < in.S; ++key) {
      all = all && until[key * in.until_time] > query;
    }
  }
  return {first, last, all};
}

// Where the vector of queries from `lane` on sees a key: all ones or zeros.
template <typename Scalar>
static inline Lane<Scalar> sees(const SelectInputs& in, const Block<Scalar>& block, int lane, int64_t key) {
  using Number = LaneNumber<Scalar>;
  Lane<Scalar> index, low, high;
  __builtin_memcpy(&index, block.index + lane, sizeof index);
  __builtin_memcpy(&low, block.low + lane, sizeof low);
  __builtin_memcpy(&high, block.high + lane, sizeof high);
  const Number number = static_cast<Number>(key);
  Lane<Scalar> seen = (low <= number) & (high >= number);
  if (key >= in.S) return seen;
  if (in.until) {
    seen &= index < static_cast<Number>(in.until[block.row * in.until_batch + key * in.until_time]);
  }
  if (!in.causal && in.starts) {
    Lane<Scalar> start;
    __builtin_memcpy(&start, block.start + lane, sizeof start);
    seen &= start == static_cast<Number>(in.starts[block.row * in.starts_batch + key * in.starts_time]);
  }
  return seen;
}

template <typename Scalar>
static inline Lane<Scalar> may_hide(const SelectInputs& in, const Block<Scalar>& block, int lane, int64_t key) {
  using Number = LaneNumber<Scalar>;
  Lane<Scalar> index, start;
  __builtin_memcpy(&index, block.index + lane, sizeof index);
  const Number number = static_cast<Number>(key);
  Lane<Scalar> may = sees(in, block, lane, key) & (index != number);
  if (in.protect) {
    __builtin_memcpy(&start, block.start + lane, sizeof start);
    may &= start != number;
  }
  return may;
}

}  // namespace hybridgen::HYBRIDGEN_ISA
