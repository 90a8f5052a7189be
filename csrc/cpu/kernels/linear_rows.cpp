// A linear map of few rows. Its time is the reading of the weights, so these are read once, in order, for up to
// kMaxRows rows of x together.
//
// Every output is one chain of multiply-adds per lane along K and one fixed tree over the lanes, whatever the number
// of rows, the block it falls into and the number of threads: a row's result does not depend on its company.
#include "../linear_rows.h"

#include <utility>  // for a sequence of numbers: of its functions none is called (see vec.h)

#include "vec.h"

namespace hybridgen::HYBRIDGEN_ISA {

namespace {

constexpr int kMaxRows = 8;
// Weight rows per block, as many as the registers hold sums for: each x that is loaded serves all of them.
template <int rows>
constexpr int kBlock = kFloats == 16 ? (rows <= 6 ? 4 : 3) : (rows <= 2 ? 4 : rows <= 4 ? 2 : 1);
constexpr int kCacheLine = 64;

template <int number>
struct Constant {
  constexpr operator int() const { return number; }
};

// Calls body(0) ... body(count - 1) with constants: sums that are indexed by them stay in registers. A plain loop is
// unrolled too late for that.
template <int count, typename Body>
__attribute__((always_inline)) static inline void unrolled(const Body& body) {
  if constexpr (count > 0) {
    unrolled<count - 1>(body);
    body(Constant<count - 1>{});
  }
}

// Fused wherever the machine can: left to itself, the compiler fuses some of several equal expressions only.
static inline FloatVec multiply_add(FloatVec a, FloatVec b, FloatVec sum) {
#if defined(__AVX512F__)
  return (FloatVec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__AVX2__)
  return (FloatVec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#elif defined(__FP_FAST_FMAF)
  for (int i = 0; i < kFloats; ++i) sum[i] = __builtin_fmaf(a[i], b[i], sum[i]);
  return sum;
#else
  return sum + a * b;
#endif
}

template <int distance, int... lane>
static inline FloatVec swapped(FloatVec x, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(x, x, (lane ^ distance)...);
}

// Adds the upper half of the lanes to the lower half until one is left.
template <int half = kFloats / 2>
static inline float tree_sum(FloatVec x) {
  if constexpr (half == 0) {
    return x[0];
  } else {
    return tree_sum<half / 2>(x + swapped<half>(x, std::make_integer_sequence<int, kFloats>{}));
  }
}

template <int rows, int block, typename T>
static inline void multiply_block(const LinearRows& args, const float* x, T* out, int64_t output) {
  constexpr int step = kCacheLine / sizeof(T);
  const int64_t inputs = args.inputs, stride = args.weight_stride;
  const T* weight = static_cast<const T*>(args.weight) + output * stride;
  // The rows of the next block, fetched while this one is computed. Prefetching past the end does no harm.
  const T* ahead = weight + block * stride;
  FloatVec sums[rows][block] = {};
  int64_t k = 0;
  for (; k + step <= inputs; k += step) {
    unrolled<block>([&](auto j) { __builtin_prefetch(ahead + j * stride + k, 0, 2); });
    unrolled<step / kFloats>([&](auto part) {
      const int64_t at = k + part * kFloats;
      FloatVec w[block];
      unrolled<block>([&](auto j) { w[j] = load(weight + j * stride + at); });
      unrolled<rows>([&](auto i) {
        const FloatVec value = load(x + i * inputs + at);
        unrolled<block>([&](auto j) { sums[i][j] = multiply_add(value, w[j], sums[i][j]); });
      });
    });
  }
  for (; k < inputs; k += kFloats) {
    const int count = inputs - k < kFloats ? static_cast<int>(inputs - k) : kFloats;
    unrolled<rows>([&](auto i) {
      const FloatVec value = load_part(x + i * inputs + k, count);
      unrolled<block>([&](auto j) {
        sums[i][j] = multiply_add(value, load_part(weight + j * stride + k, count), sums[i][j]);
      });
    });
  }
  const T* bias = static_cast<const T*>(args.bias);
  unrolled<rows>([&](auto i) {
    unrolled<block>([&](auto j) {
      const float added = bias ? widen(bias[output + j]) : 0.0f;
      narrow(tree_sum(sums[i][j]) + added, out[i * args.outputs + output + j]);
    });
  });
}

template <int rows, typename T>
void multiply_rows(const LinearRows& args, const float* x, T* out, int64_t first, int64_t last) {
  constexpr int block = kBlock<rows>;
  int64_t output = first;
  for (; output + block <= last; output += block) multiply_block<rows, block>(args, x, out, output);
  for (; output < last; ++output) multiply_block<rows, 1>(args, x, out, output);
}

template <typename T>
void multiply(const LinearRows& args, int64_t first, int64_t last) {
  T* out = static_cast<T*>(args.out);
  for (int64_t row = 0; row < args.rows; row += kMaxRows) {
    const float* from = args.x + row * args.inputs;
    T* to = out + row * args.outputs;
    switch (args.rows - row) {
      case 1: multiply_rows<1>(args, from, to, first, last); break;
      case 2: multiply_rows<2>(args, from, to, first, last); break;
      case 3: multiply_rows<3>(args, from, to, first, last); break;
      case 4: multiply_rows<4>(args, from, to, first, last); break;
      case 5: multiply_rows<5>(args, from, to, first, last); break;
      case 6: multiply_rows<6>(args, from, to, first, last); break;
      case 7: multiply_rows<7>(args, from, to, first, last); break;
      default: multiply_rows<kMaxRows>(args, from, to, first, last); break;
    }
  }
}

template <typename T>
void widen_rows(float* to, const T* from, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t row = 0; row < rows; ++row, to += columns, from += stride) {
    int64_t i = 0;
    for (; i + kFloats <= columns; i += kFloats) store(to + i, load(from + i));
    for (; i < columns; ++i) to[i] = widen(from[i]);
  }
}

}  // namespace

void widen_rows(float* to, const void* from, Element element, int64_t stride, int64_t rows, int64_t columns) {
  switch (element) {
    case Element::kBFloat16: return widen_rows(to, static_cast<const BFloat16*>(from), stride, rows, columns);
    case Element::kFloat16: return widen_rows(to, static_cast<const Float16*>(from), stride, rows, columns);
    default: return widen_rows(to, static_cast<const float*>(from), stride, rows, columns);
  }
}

void linear_rows(const LinearRows& args, int64_t first_output, int64_t last_output) {
  switch (args.element) {
    case Element::kBFloat16: return multiply<BFloat16>(args, first_output, last_output);
    case Element::kFloat16: return multiply<Float16>(args, first_output, last_output);
    default: return multiply<float>(args, first_output, last_output);
  }
}

}  // namespace hybridgen::HYBRIDGEN_ISA
