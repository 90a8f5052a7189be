// Elementary functions on vectors. The float versions are polynomials with a relative error below 2e-7 over the whole
// range, subnormal results and infinities included; NaN passes through. The double versions call the C library per
// lane: float64 exists to check the others.
#pragma once

#include <math.h>

#include "vec.h"

namespace hybridgen::HYBRIDGEN_ISA {

static inline FloatVec floor(FloatVec x) {
#if defined(__AVX512F__)
  return (FloatVec)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return (FloatVec)_mm256_floor_ps((__m256)x);
#else
  // For |x| < 2^31, which the callers see to.
  const FloatVec back = __builtin_convertvector(__builtin_convertvector(x, IntVec), FloatVec);
  return x != x ? x : back + __builtin_convertvector(back > x, FloatVec);
#endif
}

// p 2^n for whole n from -152 to 129.
static inline FloatVec scale(FloatVec p, FloatVec n) {
#if defined(__AVX512F__)
  return (FloatVec)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  // Two factors, since one power of two does not reach the subnormal numbers.
  const IntVec whole = __builtin_convertvector(n, IntVec), half = whole >> 1;
  return p * bit_cast<FloatVec>((half + 127) << 23) * bit_cast<FloatVec>((whole - half + 127) << 23);
#endif
}

// 2^f for f in [0, 1): the minimax polynomial of degree 5.
static inline FloatVec fraction_exp2(FloatVec f) {
  FloatVec p = 0.00187757669f * f + 0.00898933969f;
  p = p * f + 0.0558263175f;
  p = p * f + 0.240153611f;
  p = p * f + 0.693153083f;
  return p * f + 0.99999994f;
}

// 2^x.
static inline FloatVec exp2(FloatVec x) {
  x = min(splat<float>(129.0f), max(splat<float>(-152.0f), x));
  const FloatVec n = floor(x);
  return scale(fraction_exp2(x - n), n);
}

// e^x for x in [-104, 89].
static inline FloatVec bounded_exp(FloatVec x) {
  // x = n ln 2 + r with ln 2 in two parts: r is as exact as x is, however large n.
  const FloatVec n = floor(x * 1.44269504f);
  const FloatVec r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  // e^r for r in [0, ln 2): the minimax polynomial of degree 5.
  FloatVec p = 0.0117346561f * r + 0.0389426909f;
  p = p * r + 0.167634189f;
  p = p * r + 0.499848276f;
  p = p * r + 1.00000846f;
  return scale(p * r + 0.99999994f, n);
}

// Beyond the limits the result is 0 or inf; NaN stays.
static inline FloatVec exp(FloatVec x) { return bounded_exp(min(splat<float>(89.0f), max(splat<float>(-104.0f), x))); }

// e^-|x|, which two operations fewer can do.
static inline FloatVec exp_of_negative_magnitude(FloatVec x) {
  return bounded_exp(max(splat<float>(-104.0f), negative_magnitude(x)));
}
static inline DoubleVec exp(DoubleVec x);
static inline DoubleVec exp_of_negative_magnitude(DoubleVec x) { return exp(negative_magnitude(x)); }

static inline DoubleVec exp(DoubleVec x) {
  for (int i = 0; i < kDoubles; ++i) x[i] = ::exp(x[i]);
  return x;
}
static inline DoubleVec exp2(DoubleVec x) {
  for (int i = 0; i < kDoubles; ++i) x[i] = ::exp2(x[i]);
  return x;
}

// 1 / x for finite normal x whose inverse is normal too; a tenth of a division's time where the machine has a start
// value of 14 bits.
static inline FloatVec reciprocal(FloatVec x) {
#if defined(__AVX512F__)
  const FloatVec start = (FloatVec)_mm512_rcp14_ps((__m512)x);
  return start * (2 - x * start);
#else
  return 1 / x;
#endif
}
static inline DoubleVec reciprocal(DoubleVec x) { return 1 / x; }

// log(1 + y) for y in [0, 1], with a small relative error even for tiny y: 2 artanh(y / (2 + y)).
static inline FloatVec log1p_unit(FloatVec y) {
#if defined(__AVX512F__)
  const FloatVec s = y * reciprocal(2.0f + y);
#else
  const FloatVec s = y / (2.0f + y);
#endif
  const FloatVec s2 = s * s;
  FloatVec p = 0.280276396f * s2 + 0.279981733f;
  p = p * s2 + 0.400217909f;
  p = p * s2 + 0.666664105f;
  return (p * s2 + 2.0f) * s;
}
static inline DoubleVec log1p_unit(DoubleVec y) {
  for (int i = 0; i < kDoubles; ++i) y[i] = ::log1p(y[i]);
  return y;
}

// As torch's: x itself above 20.
template <typename V>
static inline V softplus(V x) {
  const V result = (x > 0 ? x : V{}) + log1p_unit(exp_of_negative_magnitude(x));
  return x > 20 ? x : (x != x ? x : result);
}

template <typename V>
static inline V sigmoid(V x) {
  const V e = exp_of_negative_magnitude(x), r = reciprocal(1 + e);
  return x < 0 ? e * r : r;
}

}  // namespace hybridgen::HYBRIDGEN_ISA
