// The activations of hybridgen.ops.activations, in its order, each with its derivative. All are written so that nothing
// cancels: small values keep their relative precision. Infinities and NaN give what torch's activations give.
#pragma once

#include "elementary.h"

namespace hybridgen::HYBRIDGEN_ISA {

enum class Activation : int32_t {
  kSilu, kGelu, kGeluTanh, kRelu, kRelu2, kSigmoid, kTanh, kSoftplus, kMish, kElu, kIdentity
};

// value and slope of one activation at x. Where torch's derivative takes a side (relu at 0), so does the slope.
template <typename V>
struct ValueSlope {
  V value, slope;
};

// ---- what several of them need ----

// A constant in the precision of V.
template <typename V>
static inline V constant(double value) {
  V x{};
  return x + static_cast<__typeof__(x[0] + x[0])>(value);
}

// exp(x) - 1 for x <= 0.
static inline FloatVec expm1_negative(FloatVec x) {
  x = max(splat<float>(-20.0f), x);
  const FloatVec n = floor(x * 1.44269504f + 0.5f);
  const FloatVec r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  FloatVec p = 0.00138825108f * r + 0.00836658012f;
  p = p * r + 0.0416672006f;
  p = p * r + 0.166665435f;
  p = p * r + 0.49999997f;
  p = p * (r * r) + r;
  const FloatVec power = scale(splat<float>(1.0f), n);
  return x == 0 ? x : power * p + (power - 1);
}
static inline DoubleVec expm1_negative(DoubleVec x) {
  for (int i = 0; i < kDoubles; ++i) x[i] = ::expm1(x[i]);
  return x;
}

// The upper tail of the normal distribution beyond x >= 0, given e = exp(-x^2 / 2): e / 2 erfcx(x / sqrt(2)), the latter
// a polynomial in 1 / (1 + 0.35 x) with a relative error below 4e-8.
static inline FloatVec normal_tail(FloatVec x, FloatVec e) {
  const FloatVec t = reciprocal(1 + 0.35f * min(splat<float>(20.0f), x));
  FloatVec p = -0.0291454550f * t + 0.143969640f;
  p = p * t - 0.255710542f;
  p = p * t + 0.159170493f;
  p = p * t - 0.0231076851f;
  p = p * t + 0.105507247f;
  p = p * t + 0.119833022f;
  p = p * t + 0.139861852f;
  p = p * t + 0.139621407f;
  return e * (p * t);
}
static inline DoubleVec normal_tail(DoubleVec x, DoubleVec) {
  for (int i = 0; i < kDoubles; ++i) x[i] = 0.5 * ::erfc(x[i] * 0.70710678118654752);
  return x;
}

// The logistic function.
template <typename V>
static inline ValueSlope<V> logistic(V x) {
  const V e = exp_of_negative_magnitude(x), r = reciprocal(1 + e);
  return {x < 0 ? e * r : r, e * r * r};
}

// ---- the activations ----

template <Activation kind>
struct Act;

template <>
struct Act<Activation::kSilu> {
  template <typename V>
  static inline V value(V x) { return x * sigmoid(x); }
  template <typename V>
  static inline ValueSlope<V> both(V x) {
    const V s = sigmoid(x);
    return {x * s, s * (1 + x * (1 - s))};
  }
};

// x times the normal distribution function, its derivative the density.
template <>
struct Act<Activation::kGelu> {
  template <typename V>
  static inline V value(V x) { return both(x).value; }
  template <typename V>
  static inline ValueSlope<V> both(V x) {
    const V e = exp(x * x * -0.5f);
    const V tail = normal_tail(x < 0 ? -x : x, e);
    const V below = x < 0 ? tail : 1 - tail;
    return {x * below, below + x * (e * constant<V>(0.39894228040143268))};  // 1 / sqrt(2 pi)
  }
};

// (1 + tanh(u)) / 2 is the logistic function of 2 u.
template <>
struct Act<Activation::kGeluTanh> {
  template <typename V>
  static inline V value(V x) { return both(x).value; }
  template <typename V>
  static inline ValueSlope<V> both(V x) {
    const V twice = constant<V>(1.5957691216057308);  // 2 sqrt(2 / pi)
    const V cubic = twice * constant<V>(0.044715) * (x * x);
    const ValueSlope<V> s = logistic(x * (twice + cubic));
    // In this order, so that a slope of 0 wins over a large x.
    return {x * s.value, s.value + x * s.slope * (twice + 3 * cubic)};
  }
};

template <>
struct Act<Activation::kRelu> {
  template <typename V>
  static inline V value(V x) { return x <= 0 ? V{} : x; }
  template <typename V>
  static inline ValueSlope<V> both(V x) { return {value(x), x <= 0 ? V{} : V{} + 1}; }
};

template <>
struct Act<Activation::kRelu2> {
  template <typename V>
  static inline V value(V x) {
    const V positive = x <= 0 ? V{} : x;
    return positive * positive;
  }
  template <typename V>
  static inline ValueSlope<V> both(V x) {
    const V positive = x <= 0 ? V{} : x;
    return {positive * positive, positive + positive};
  }
};

template <>
struct Act<Activation::kSigmoid> {
  template <typename V>
  static inline V value(V x) { return sigmoid(x); }
  template <typename V>
  static inline ValueSlope<V> both(V x) { return logistic(x); }
};

template <>
struct Act<Activation::kTanh> {
  template <typename V>
  static inline V value(V x) {
    const V m = expm1_negative(negative_magnitude(x + x));
    const V y = m * reciprocal(2 + m);  // -tanh(|x|)
    return x < 0 ? y : (x == 0 ? x : -y);
  }
  template <typename V>
  static inline ValueSlope<V> both(V x) { return {value(x), 4 * logistic(x + x).slope}; }
};

template <>
struct Act<Activation::kSoftplus> {
  template <typename V>
  static inline V value(V x) { return softplus(x); }
  template <typename V>
  static inline ValueSlope<V> both(V x) { return {softplus(x), x > 20 ? V{} + 1 : sigmoid(x)}; }
};

// With w = exp(x), tanh(softplus(x)) = (w^2 + 2 w) / (w^2 + 2 w + 2); both sides divided by w^2 where x > 0.
template <>
struct Act<Activation::kMish> {
  template <typename V>
  static inline V value(V x) { return both(x).value; }
  template <typename V>
  static inline ValueSlope<V> both(V x) {
    const V e = exp_of_negative_magnitude(x), e2 = e * e;
    const V above = x < 0 ? e2 + 2 * e : 1 + 2 * e;
    const V r = reciprocal(above + 2 * (x < 0 ? V{} + 1 : e2));
    const V t = above * r;
    return {x * t, t + x * (4 * (x < 0 ? e : e2) * (1 + e) * r * r)};
  }
};

template <>
struct Act<Activation::kElu> {
  template <typename V>
  static inline V value(V x) { return x > 0 ? x : expm1_negative(x); }
  template <typename V>
  static inline ValueSlope<V> both(V x) { return {value(x), x <= 0 ? exp(x) : V{} + 1}; }
};

template <>
struct Act<Activation::kIdentity> {
  template <typename V>
  static inline V value(V x) { return x; }
  template <typename V>
  static inline ValueSlope<V> both(V x) { return {x, V{} + 1}; }
};

// Calls body.operator()<kind>() for the activation of this number.
template <typename Body>
static inline void with_activation(int32_t kind, const Body& body) {
  switch (static_cast<Activation>(kind)) {
    case Activation::kSilu: return body.template operator()<Activation::kSilu>();
    case Activation::kGelu: return body.template operator()<Activation::kGelu>();
    case Activation::kGeluTanh: return body.template operator()<Activation::kGeluTanh>();
    case Activation::kRelu: return body.template operator()<Activation::kRelu>();
    case Activation::kRelu2: return body.template operator()<Activation::kRelu2>();
    case Activation::kSigmoid: return body.template operator()<Activation::kSigmoid>();
    case Activation::kTanh: return body.template operator()<Activation::kTanh>();
    case Activation::kSoftplus: return body.template operator()<Activation::kSoftplus>();
    case Activation::kMish: return body.template operator()<Activation::kMish>();
    case Activation::kElu: return body.template operator()<Activation::kElu>();
    default: return body.template operator()<Activation::kIdentity>();
  }
}

}  // namespace hybridgen::HYBRIDGEN_ISA
