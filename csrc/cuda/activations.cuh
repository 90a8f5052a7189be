// The activations of hybridgen.ops.activations, in its order, with their derivatives, for one number on the GPU. The
// formulas are those of cpu/kernels/activations.h; erfc, expm1 and tanh come from CUDA's library.
#pragma once

#include <cstdint>

namespace hybridgen::cuda {

enum class Activation : int32_t {
  kSilu, kGelu, kGeluTanh, kRelu, kRelu2, kSigmoid, kTanh, kSoftplus, kMish, kElu, kIdentity
};

template <typename C>
struct ValueSlope {
  C value, slope;
};

// 1 / x for normal x with a normal inverse.
__device__ inline float reciprocal(float x) { return __fdividef(1.0f, x); }
__device__ inline double reciprocal(double x) { return 1.0 / x; }

template <typename C>
__device__ ValueSlope<C> logistic(C x) {
  const C e = exp(x < 0 ? x : -x), r = reciprocal(1 + e);
  return {x < 0 ? e * r : r, e * r * r};
}

template <Activation kind, typename C>
__device__ ValueSlope<C> activate(C x) {
  if constexpr (kind == Activation::kSilu) {
    const C s = logistic(x).value;
    return {x * s, s * (1 + x * (1 - s))};
  } else if constexpr (kind == Activation::kGelu) {
    const C below = C(0.5) * erfc(x * C(-0.70710678118654752));
    return {x * below, below + x * (exp(x * x * C(-0.5)) * C(0.39894228040143268))};
  } else if constexpr (kind == Activation::kGeluTanh) {
    const C twice = C(1.5957691216057308);  // 2 sqrt(2 / pi)
    const C cubic = twice * C(0.044715) * (x * x);
    const ValueSlope<C> s = logistic(x * (twice + cubic));
    // In this order, so that a slope of 0 wins over a large x.
    return {x * s.value, s.value + x * s.slope * (twice + 3 * cubic)};
  } else if constexpr (kind == Activation::kRelu) {
    return {x <= 0 ? C(0) : x, x <= 0 ? C(0) : C(1)};
  } else if constexpr (kind == Activation::kRelu2) {
    const C positive = x <= 0 ? C(0) : x;
    return {positive * positive, positive + positive};
  } else if constexpr (kind == Activation::kSigmoid) {
    return logistic(x);
  } else if constexpr (kind == Activation::kTanh) {
    return {tanh(x), 4 * logistic(x + x).slope};
  } else if constexpr (kind == Activation::kSoftplus) {
    const C sum = (x > 0 ? x : C(0)) + log1p(exp(x < 0 ? x : -x));
    return {x > 20 ? x : sum, x > 20 ? C(1) : logistic(x).value};
  } else if constexpr (kind == Activation::kMish) {
    // With w = exp(x), tanh(softplus(x)) = (w^2 + 2 w) / (w^2 + 2 w + 2); both sides divided by w^2 where x > 0.
    const C e = exp(x < 0 ? x : -x), e2 = e * e;
    const C above = x < 0 ? e2 + 2 * e : 1 + 2 * e;
    const C r = reciprocal(above + 2 * (x < 0 ? C(1) : e2));
    return {x * (above * r), above * r + x * (4 * (x < 0 ? e : e2) * (1 + e) * r * r)};
  } else if constexpr (kind == Activation::kElu) {
    return {x > 0 ? x : expm1(x), x <= 0 ? exp(x) : C(1)};
  } else {
    return {x, C(1)};
  }
}

// Calls body.operator()<kind>() for the activation of this number. All threads take the same way.
template <typename Body>
__device__ void with_activation(int32_t kind, const Body& body) {
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

}  // namespace hybridgen::cuda
