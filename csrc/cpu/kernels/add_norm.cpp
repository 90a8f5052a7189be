#include "../add_norm.h"

#include "vec.h"

// A row is read from memory once; all further passes over it find it in the first-level cache. Each pass is a template
// over the one dtype that it reads or writes besides that of the arithmetic, so that all mixtures of dtypes need few.
namespace hybridgen::HYBRIDGEN_ISA {

namespace {

template <typename Scalar>
constexpr Element kElementOf = sizeof(Scalar) == 8 ? Element::kFloat64 : Element::kFloat32;

// Calls body.operator()<T>() with a type whose arithmetic is in Scalar.
template <typename Scalar, typename Body>
void with_stored(Element element, const Body& body) {
  if constexpr (sizeof(Scalar) == 8) {
    body.template operator()<double>();
  } else {
    switch (element) {
      case Element::kBFloat16: return body.template operator()<BFloat16>();
      case Element::kFloat16: return body.template operator()<Float16>();
      default: return body.template operator()<float>();
    }
  }
}

template <typename T>
T* at(const NormRows& rows, int64_t row) {
  return static_cast<T*>(rows.data) + row * rows.stride;
}

// `count` is a whole vector except at the end of a row; absent lanes are zero.
template <typename T>
[[gnu::always_inline]] inline Vec<Compute<T>> get(const T* from, int count) {
  return count == kLanes<Compute<T>> ? load(from) : load_part(from, count);
}
template <typename T>
[[gnu::always_inline]] inline void put(T* to, Vec<Compute<T>> x, int count) {
  if (count == kLanes<Compute<T>>) {
    store(to, x);
  } else {
    store_part(to, x, count);
  }
}

// Calls body(first element, elements) for each vector of a row.
template <typename Scalar, typename Body>
[[gnu::always_inline]] inline void for_vectors(int64_t columns, const Body& body) {
  constexpr int lanes = kLanes<Scalar>;
  int64_t i = 0;
  for (; i + lanes <= columns; i += lanes) body(i, lanes);
  if (i < columns) body(i, static_cast<int>(columns - i));
}

// The sum of term(first element, elements) over a row; four sums at a time hide the latency of the addition.
template <typename Scalar, typename Term>
[[gnu::always_inline]] inline Scalar sum_of(int64_t columns, const Term& term) {
  constexpr int lanes = kLanes<Scalar>;
  Vec<Scalar> a{}, b{}, c{}, d{};
  int64_t i = 0;
  for (; i + 4 * lanes <= columns; i += 4 * lanes) {
    a += term(i, lanes);
    b += term(i + lanes, lanes);
    c += term(i + 2 * lanes, lanes);
    d += term(i + 3 * lanes, lanes);
  }
  for (; i + lanes <= columns; i += lanes) a += term(i, lanes);
  if (i < columns) b += term(i, static_cast<int>(columns - i));
  return sum<Scalar>((a + b) + (c + d));
}

// A row in the dtype of the arithmetic: the row itself, or a copy in `scratch`.
template <typename Scalar>
const Scalar* widened(const NormRows& rows, int64_t row, Scalar* scratch, int64_t columns) {
  if (rows.element == kElementOf<Scalar>) return at<Scalar>(rows, row);
  with_stored<Scalar>(rows.element, [&]<typename T>() {
    const T* from = at<T>(rows, row);
    for_vectors<Scalar>(columns, [&](int64_t i, int n) __attribute__((always_inline)) {
      put(scratch + i, get(from + i, n), n);
    });
  });
  return scratch;
}

template <typename Scalar>
void narrowed(const Scalar* from, const NormRows& rows, int64_t row, int64_t columns) {
  with_stored<Scalar>(rows.element, [&]<typename T>() {
    T* to = at<T>(rows, row);
    for_vectors<Scalar>(columns, [&](int64_t i, int n) __attribute__((always_inline)) {
      put(to + i, get(from + i, n), n);
    });
  });
}

// branch + residual in `to`; without a residual, the branch wherever it is.
template <typename Scalar>
const Scalar* summed(const AddNorm& norm, int64_t row, Scalar* to) {
  const Scalar* branch = widened(norm.branch, row, to, norm.columns);
  if (!norm.residual.data) return branch;
  with_stored<Scalar>(norm.residual.element, [&]<typename T>() {
    const T* residual = at<T>(norm.residual, row);
    for_vectors<Scalar>(norm.columns, [&](int64_t i, int n) __attribute__((always_inline)) {
      put(to + i, get(branch + i, n) + get(residual + i, n), n);
    });
  });
  return to;
}

template <typename Scalar>
const Scalar* full_weight(const AddNorm& norm, Scalar* scratch) {
  const Scalar* weight = widened(norm.weight, 0, scratch, norm.columns);
  if (norm.weight_offset == 0) return weight;
  const Scalar offset = static_cast<Scalar>(norm.weight_offset);
  for (int64_t i = 0; i < norm.columns; ++i) scratch[i] = weight[i] + offset;
  return scratch;
}

// What a row is normalised by: (x - mean) * scale. The mean of an RMS norm is zero.
template <typename Scalar>
struct Moments {
  Scalar mean, scale;
};

template <typename Scalar>
Moments<Scalar> moments(const AddNorm& norm, const Scalar* x) {
  Scalar mean = 0;
  if (!norm.is_rms) {
    mean = sum_of<Scalar>(norm.columns, [&](int64_t i, int n) __attribute__((always_inline)) {
      return get(x + i, n);
    }) / static_cast<Scalar>(norm.columns);
  }
  Vec<Scalar> rest{};  // the mean in the lanes that the end of a row has
  for (int i = 0; i < norm.columns % kLanes<Scalar>; ++i) rest[i] = mean;
  const Scalar squares = sum_of<Scalar>(norm.columns, [&](int64_t i, int n) __attribute__((always_inline)) {
    const auto centred = get(x + i, n) - (n == kLanes<Scalar> ? splat(mean) : rest);
    return centred * centred;
  });
  const double variance = static_cast<double>(squares / static_cast<Scalar>(norm.columns));
  return {mean, static_cast<Scalar>(1 / __builtin_sqrt(variance + norm.eps))};
}

template <typename Scalar>
void forward(const AddNormForward& args, void* memory, int64_t begin, int64_t end) {
  const AddNorm& norm = args.norm;
  const int64_t columns = norm.columns;
  Scalar* scratch = static_cast<Scalar*>(memory);
  const Scalar* weight = full_weight(norm, scratch + columns);
  const Scalar* bias = norm.bias.data ? widened(norm.bias, 0, scratch + 2 * columns, columns) : nullptr;
  const bool in_total = args.total.data && args.total.element == kElementOf<Scalar>;
  for (int64_t row = begin; row < end; ++row) {
    const Scalar* x = summed(norm, row, in_total ? at<Scalar>(args.total, row) : scratch);
    if (args.total.data && !in_total) narrowed(x, args.total, row, columns);
    const auto [mean, scale] = moments(norm, x);
    const auto normalise = [&](int64_t i, int n) __attribute__((always_inline)) {
      return (get(x + i, n) - mean) * scale * get(weight + i, n);
    };
    with_stored<Scalar>(args.normed.element, [&]<typename T>() {
      T* to = at<T>(args.normed, row);
      if (bias) {
        for_vectors<Scalar>(columns, [&](int64_t i, int n) __attribute__((always_inline)) {
          put(to + i, normalise(i, n) + get(bias + i, n), n);
        });
      } else {
        for_vectors<Scalar>(columns, [&](int64_t i, int n) __attribute__((always_inline)) {
          put(to + i, normalise(i, n), n);
        });
      }
    });
  }
}

// One row of the backward pass. With h = (x - mean) * scale and v = grad * weight:
// dx = scale * (v - mean(v) - h * mean(v * h)), without mean(v) for an RMS norm.
template <typename Scalar>
struct RowGradient {
  const Scalar *x, *grad, *weight, *grad_total;
  Scalar mean, scale, mean_v, mean_vh;

  // Sets the means, and adds to the sums for weight and bias.
  void reduce(const AddNorm& norm, Scalar* d_weight, Scalar* d_bias) {
    Vec<Scalar> sum_v{}, sum_vh{};
    for_vectors<Scalar>(norm.columns, [&](int64_t i, int n) __attribute__((always_inline)) {
      const auto g = get(grad + i, n), h = (get(x + i, n) - mean) * scale, v = g * get(weight + i, n);
      sum_v += v;
      sum_vh += v * h;
      put(d_weight + i, get(d_weight + i, n) + g * h, n);
      if (d_bias) put(d_bias + i, get(d_bias + i, n) + g, n);
    });
    mean_v = norm.is_rms ? 0 : sum<Scalar>(sum_v) / static_cast<Scalar>(norm.columns);
    mean_vh = sum<Scalar>(sum_vh) / static_cast<Scalar>(norm.columns);
  }

  void write(const NormRows& rows, int64_t row, int64_t columns) const {
    const auto dx = [&](int64_t i, int n) __attribute__((always_inline)) {
      const auto h = (get(x + i, n) - mean) * scale;
      return (get(grad + i, n) * get(weight + i, n) - mean_v - h * mean_vh) * scale;
    };
    with_stored<Scalar>(rows.element, [&]<typename T>() {
      T* to = at<T>(rows, row);
      if (grad_total) {
        for_vectors<Scalar>(columns, [&](int64_t i, int n) __attribute__((always_inline)) {
          put(to + i, dx(i, n) + get(grad_total + i, n), n);
        });
      } else {
        for_vectors<Scalar>(columns, [&](int64_t i, int n) __attribute__((always_inline)) {
          put(to + i, dx(i, n), n);
        });
      }
    });
  }
};

template <typename Scalar>
void backward(const AddNormBackward& args, void* memory, int64_t begin, int64_t end) {
  const AddNorm& norm = args.norm;
  const int64_t columns = norm.columns;
  Scalar* scratch = static_cast<Scalar*>(memory);
  const Scalar* weight = full_weight(norm, scratch + 3 * columns);
  for (int64_t block = begin; block < end; ++block) {
    Scalar* d_weight = static_cast<Scalar*>(args.d_weight) + block * columns;
    Scalar* d_bias = args.d_bias ? static_cast<Scalar*>(args.d_bias) + block * columns : nullptr;
    for (int64_t i = 0; i < columns; ++i) d_weight[i] = 0;
    for (int64_t i = 0; d_bias && i < columns; ++i) d_bias[i] = 0;
    const int64_t first = block * args.rows_per_block, behind = first + args.rows_per_block;
    for (int64_t row = first; row < (behind < args.rows ? behind : args.rows); ++row) {
      const Scalar* x = summed(norm, row, scratch);
      const Scalar* grad = widened(args.grad, row, scratch + columns, columns);
      const Scalar* grad_total =
          args.grad_total.data ? widened(args.grad_total, row, scratch + 2 * columns, columns) : nullptr;
      const auto [mean, scale] = moments(norm, x);
      RowGradient<Scalar> gradient{x, grad, weight, grad_total, mean, scale, 0, 0};
      gradient.reduce(norm, d_weight, d_bias);
      gradient.write(args.d_branch, row, columns);
      if (args.d_residual.data) gradient.write(args.d_residual, row, columns);
    }
  }
}

template <typename Scalar>
void sum_blocks(const AddNormSum& args) {
  const Scalar* parts = static_cast<const Scalar*>(args.parts);
  with_stored<Scalar>(args.sum.element, [&]<typename T>() {
    for_vectors<Scalar>(args.columns, [&](int64_t i, int n) __attribute__((always_inline)) {
      Vec<Scalar> total{};
      for (int64_t block = 0; block < args.blocks; ++block) total += get(parts + block * args.columns + i, n);
      put(at<T>(args.sum, 0) + i, total, n);
    });
  });
}

}  // namespace

void add_norm_forward(const AddNormForward& args, void* scratch, int64_t begin, int64_t end) {
  if (args.norm.branch.element == Element::kFloat64) return forward<double>(args, scratch, begin, end);
  forward<float>(args, scratch, begin, end);
}

void add_norm_backward(const AddNormBackward& args, void* scratch, int64_t begin, int64_t end) {
  if (args.norm.branch.element == Element::kFloat64) return backward<double>(args, scratch, begin, end);
  backward<float>(args, scratch, begin, end);
}

void add_norm_sum(const AddNormSum& args) {
  if (args.sum.element == Element::kFloat64) return sum_blocks<double>(args);
  sum_blocks<float>(args);
}

}  // namespace hybridgen::HYBRIDGEN_ISA
