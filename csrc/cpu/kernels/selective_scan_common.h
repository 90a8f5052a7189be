// What the selective scan's kernels share: the decay's exponential, blocks of channels, scratch memory.
#pragma once

#include <utility>

#include "../selective_scan.h"
#include "activations.h"

namespace hybridgen::HYBRIDGEN_ISA {

constexpr double kLog2e = 1.44269504088896340736;

// 2^x for decays: as exp2, but a result below 2^-126 is 0.
static inline FloatVec decay_exp2(FloatVec x) {
#if defined(__AVX512DQ__)
  // x - floor(x); 0 for infinities, which vscalefps then turns into 0 or inf.
  const FloatVec f = (FloatVec)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  return (FloatVec)_mm512_scalef_ps((__m512)fraction_exp2(f), (__m512)x);
#else
#if defined(__AVX2__)
  // NaN stays, being the second operand.
  x = (FloatVec)_mm256_min_ps(_mm256_set1_ps(128.0f), _mm256_max_ps(_mm256_set1_ps(-127.0f), (__m256)x));
#else
  x = x < -127.0f ? splat<float>(-127.0f) : x;
  x = x > 128.0f ? splat<float>(128.0f) : x;
#endif
  const FloatVec n = floor(x);
  return fraction_exp2(x - n) * bit_cast<FloatVec>((__builtin_convertvector(n, IntVec) + 127) << 23);
#endif
}
static inline DoubleVec decay_exp2(DoubleVec x) { return exp2(x); }

// Up to which |x| `bounded_exp2` is for: it stays among the normal numbers.
constexpr int kBoundedExp2 = 126;

// 2^x for |x| <= kBoundedExp2, with a relative error below 2.5e-7, and exactly 1 for x = 0: an error there would add up
// over the tokens that a slow decay spans. x = r + f with r a multiple of 1/32 (AVX-512) or 1; adding a large number to
// x rounds it to r and leaves r's bits at the end, where an integer addition makes a power of two of them.
static inline FloatVec bounded_exp2(FloatVec x) {
#if defined(__AVX512F__)
  // 2^(j/32) for j = 0 to 31, less what the shift below adds to it: j << 18.
  alignas(64) static constexpr uint32_t table[32] = {
      0x3f800000, 0x3f7ecd87, 0x3f7daac3, 0x3f7c980f, 0x3f7b95c2, 0x3f7aa43a, 0x3f79c3d3, 0x3f78f4f0,
      0x3f7837f0, 0x3f778d3a, 0x3f76f532, 0x3f767043, 0x3f75fed7, 0x3f75a15b, 0x3f75583f, 0x3f7523f6,
      0x3f7504f3, 0x3f74fbaf, 0x3f7508a4, 0x3f752c4d, 0x3f75672a, 0x3f75b9be, 0x3f76248c, 0x3f76a81e,
      0x3f7744fd, 0x3f77fbb8, 0x3f78ccdf, 0x3f79b907, 0x3f7ac0c7, 0x3f7be4ba, 0x3f7d257d, 0x3f7e83b3,
  };
  constexpr float shift = 0x1.8p18f;
  constexpr int fraction_bits = 18;
#else
  constexpr float shift = 0x1.8p23f;
  constexpr int fraction_bits = 23;
#endif
#if defined(__FMA__)
  // The product that x is stays rounded: as part of two fused operations it would be computed twice.
  asm("" : "+v"(x));
#endif
  const FloatVec m = x + shift, f = x - (m - shift);
  const UintVec power = bit_cast<UintVec>(m) << fraction_bits;
#if defined(__AVX512F__)
  const UintVec step = (UintVec)_mm512_permutex2var_epi32(
      _mm512_load_si512(table), (__m512i)m, _mm512_load_si512(table + 16));
  const FloatVec q = (0.240226497f * f + 0.69315733f) * f, scale = bit_cast<FloatVec>(power + step);
  return scale * q + scale;
#else
  FloatVec p = 0.00132647272f * f + 0.00967151268f;
  p = p * f + 0.0555073374f;
  p = p * f + 0.240222421f;
  p = p * f + 0.693146978f;
  return bit_cast<FloatVec>(power + bit_cast<UintVec>(p * f + 1));
#endif
}
static inline DoubleVec bounded_exp2(DoubleVec x) { return exp2(x); }

// Softplus and its slope.
template <typename V>
static inline ValueSlope<V> softplus_both(V x) {
  const V magnitude = x < 0 ? -x : x;
  const V e = exp(-magnitude);
  const V value = (x > 0 ? x : V{}) + log1p_unit(e);
  return {x > 20 ? x : (x != x ? x : value), (x < 0 ? e : V{} + 1) / (1 + e)};
}

// How many of the states a pass over a chunk takes: as many as the registers hold.
#if defined(__AVX512F__)
constexpr int kStates = 4;
#else
constexpr int kStates = 2;
#endif

// The neighbouring channels that one vector holds: `count` of them from `first` on.
struct Block {
  int64_t first;
  int count;
};

template <typename T>
static inline Vec<Compute<T>> load_lanes(const T* from, int count) {
  return count == kLanes<Compute<T>> ? load(from) : load_part(from, count);
}
template <typename T>
static inline void store_lanes(T* to, Vec<Compute<T>> x, int count) {
  if (count == kLanes<Compute<T>>) {
    store(to, x);
  } else {
    store_part(to, x, count);
  }
}

// Memory for one task, aligned to vectors. Without memory it throws, which reaches the caller of the operator.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) : start_(static_cast<char*>(::operator new(bytes + 63))) {
    next_ = start_ + (64 - reinterpret_cast<uintptr_t>(start_) % 64) % 64;
  }
  ~Scratch() { ::operator delete(start_); }
  Scratch(const Scratch&) = delete;
  template <typename V>
  V* take(int64_t count) {
    V* const taken = reinterpret_cast<V*>(next_);
    next_ += (count * sizeof(V) + 63) / 64 * 64;
    return taken;
  }

 private:
  char* start_;
  char* next_;
};

// Of two rows, the lower (offset 0) or upper (offset half) half of each run of 2 * half lanes: which lane of both comes
// into lane i.
static constexpr int half_run_lane(int i, int half, int lanes) {
  const int in = i % (2 * half), run = i - in;
  return in < half ? run + in : lanes + run + in - half;
}
template <int half, typename V, int... lane>
static inline V add_half_runs(V a, V b, std::integer_sequence<int, lane...>) {
  constexpr int lanes = sizeof...(lane);
  return __builtin_shufflevector(a, b, half_run_lane(lane, half, lanes)...) +
         __builtin_shufflevector(a, b, (half_run_lane(lane, half, lanes) + half)...);
}

// Lane i of rows[0] becomes the sum of rows[i]: halves are added until one lane per row is left.
template <typename Scalar, int half = kLanes<Scalar> / 2>
static inline Vec<Scalar> row_sums(Vec<Scalar>* rows) {
  for (int i = 0; i < half; ++i)
    rows[i] = add_half_runs<half>(rows[i], rows[i + half], std::make_integer_sequence<int, kLanes<Scalar>>{});
  if constexpr (half > 1) return row_sums<Scalar, half / 2>(rows);
  return rows[0];
}

// Where the tokens, channels and group of one task lie.
template <typename S>
struct Task {
  int64_t row, group, first_block, last_block, group_channels;

  Task(const SelectiveScan& scan, int64_t task) {
    const int64_t split = task % scan.splits, whole = task / scan.splits;
    row = whole / scan.groups;
    group = whole % scan.groups;
    group_channels = scan.channels / scan.groups;
    const int64_t blocks = (group_channels + kLanes<S> - 1) / kLanes<S>;
    first_block = blocks * split / scan.splits;
    last_block = blocks * (split + 1) / scan.splits;
  }
  int64_t count() const { return last_block - first_block; }
  Block block(int64_t index) const {
    const int64_t offset = (first_block + index) * kLanes<S>, rest = group_channels - offset;
    return {group * group_channels + offset, static_cast<int>(rest < kLanes<S> ? rest : kLanes<S>)};
  }
};

template <typename T>
static inline T* at(const Sequence& sequence, int64_t row, int64_t token, int64_t group = 0) {
  return static_cast<T*>(sequence.data) + row * sequence.batch + token * sequence.time + group * sequence.group;
}

// Lanes of a dense (rows, N) matrix into N vectors, times a factor, and back.
template <typename S, typename T>
static inline void gather_states(Vec<S>* to, const T* from, Block block, int64_t N, S factor = 1) {
  for (int64_t n = 0; n < N; ++n) {
    Vec<S> x{};
    if (from)
      for (int i = 0; i < block.count; ++i) x[i] = widen(from[(block.first + i) * N + n]);
    to[n] = x * factor;
  }
}
template <typename S>
static inline void scatter_states(S* to, const Vec<S>* from, Block block, int64_t N) {
  for (int i = 0; i < block.count; ++i)
    for (int64_t n = 0; n < N; ++n) to[(block.first + i) * N + n] = from[n][i];
}

// B or C of one chunk as dense rows of N.
template <typename T>
static inline void widen_rows(Compute<T>* to, const Sequence& from, int64_t row, int64_t group, int64_t first,
                              int64_t count, int64_t N) {
  for (int64_t t = 0; t < count; ++t) {
    const T* const source = at<T>(from, row, first + t, group);
    for (int64_t n = 0; n < N; ++n) to[t * N + n] = widen(source[n]);
  }
}

// Which tokens of a chunk begin a sequence; whether any does.
static inline bool chunk_resets(uint8_t* to, const SelectiveScan& scan, int64_t row, int64_t first, int64_t count) {
  for (int64_t t = 0; t < count; ++t) to[t] = false;
  if (!scan.resets.data) return false;
  bool any = false;
  for (int64_t t = 0; t < count; ++t) {
    to[t] = !(scan.reverse && first + t == 0) && *at<uint8_t>(scan.resets, row, first + t);
    any = any || to[t];
  }
  return any;
}

}  // namespace hybridgen::HYBRIDGEN_ISA
