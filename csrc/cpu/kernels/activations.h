// The activations of hybridgen.ops.activations, in its order, each with its derivative.
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
    default: return body.template operator()<Activation::kIdentity>();
  }
}

}  // namespace hybridgen::HYBRIDGEN_ISA
