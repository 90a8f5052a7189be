// Short vectors for the CPU kernels, as wide as the instruction set that this file is compiled for.
//
// Every kernel file is compiled once per instruction set (see setup.py), each time in a namespace of its own, so that
// no function of a wide build can be linked into a narrow one. For the same reason kernel files include no header that
// defines inline functions with external linkage.
#pragma once

#include <cstdint>

#include "../kernels.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef HYBRIDGEN_ISA
#error "compile kernel files through setup.py, which defines HYBRIDGEN_ISA"
#endif

namespace hybridgen::HYBRIDGEN_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;  // SSE2, NEON
#endif

constexpr int kFloats = kVectorBytes / 4;
constexpr int kDoubles = kVectorBytes / 8;

typedef float FloatVec __attribute__((vector_size(kVectorBytes)));
typedef int32_t IntVec __attribute__((vector_size(kVectorBytes)));
typedef uint32_t UintVec __attribute__((vector_size(kVectorBytes)));
typedef double DoubleVec __attribute__((vector_size(kVectorBytes)));
typedef int64_t LongVec __attribute__((vector_size(kVectorBytes)));
typedef uint16_t HalfBits __attribute__((vector_size(kVectorBytes / 2)));

// The arithmetic's scalar type decides the vector type: float for float32, bfloat16 and float16 tensors, double for
// float64 ones.
template <typename Scalar>
struct VecOf;
template <>
struct VecOf<float> {
  using type = FloatVec;
  using mask = IntVec;
  static constexpr int size = kFloats;
};
template <>
struct VecOf<double> {
  using type = DoubleVec;
  using mask = LongVec;
  static constexpr int size = kDoubles;
};
template <typename Scalar>
using Vec = typename VecOf<Scalar>::type;
template <typename Scalar>
constexpr int kLanes = VecOf<Scalar>::size;

template <typename Scalar>
static inline Vec<Scalar> splat(Scalar value) {
  return value - Vec<Scalar>{};  // subtracting zero changes no number, so no instruction is left of it; adding it does
}

template <typename To, typename From>
static inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

// Element types of tensors. Bit patterns only: the arithmetic never happens in them.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <typename T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <typename T>
using Compute = typename ComputeOf<T>::type;

// Calls body.operator()<T>() with the type of the elements.
template <typename Body>
static inline void with_element(Element element, const Body& body) {
  switch (element) {
    case Element::kFloat64: return body.template operator()<double>();
    case Element::kBFloat16: return body.template operator()<BFloat16>();
    case Element::kFloat16: return body.template operator()<Float16>();
    default: return body.template operator()<float>();
  }
}

// ---- one element ----

static inline float widen(float x) { return x; }
static inline double widen(double x) { return x; }
static inline float widen(BFloat16 x) { return bit_cast<float>(uint32_t{x.bits} << 16); }
static inline float widen(Float16 x) {
#if defined(__AVX2__)
  return _cvtsh_ss(x.bits);
#else
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
  if (rest >= 0x7c00) return bit_cast<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  // Scaling by a power of two is exact, and turns float16's subnormal numbers into normal ones.
  return bit_cast<float>(sign | bit_cast<uint32_t>(bit_cast<float>(rest << 13) * 0x1p112f));
#endif
}

static inline void narrow(float x, float& to) { to = x; }
static inline void narrow(double x, double& to) { to = x; }
static inline void narrow(float x, BFloat16& to) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  // To nearest, ties to even; a NaN stays a quiet NaN.
  to.bits = (bits & 0x7fffffff) > 0x7f800000 ? uint16_t(bits >> 16 | 0x40)
                                             : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static inline void narrow(float x, Float16& to) {
  const uint32_t bits = bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
  uint32_t half;
  if (rest > 0x7f800000) {
    half = 0x7e00;
  } else if (rest >= 0x477ff000) {
    half = 0x7c00;
  } else if (rest < 0x38800000) {  // subnormal: the addition rounds at the right place
    half = bit_cast<uint32_t>(bit_cast<float>(rest) + 0.5f) - 0x3f000000;
  } else {
    half = (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13;
  }
  to.bits = uint16_t(sign | half);
}

// ---- a vector of elements; memory need not be aligned ----

static inline FloatVec load(const float* from) {
  FloatVec x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}
static inline DoubleVec load(const double* from) {
  DoubleVec x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}
static inline FloatVec load(const BFloat16* from) {
  HalfBits bits;
  __builtin_memcpy(&bits, from, sizeof bits);
#if defined(__AVX512F__)
  return bit_cast<FloatVec>((UintVec)_mm512_cvtepu16_epi32((__m256i)bits) << 16);
#elif defined(__AVX2__)
  return bit_cast<FloatVec>((UintVec)_mm256_cvtepu16_epi32((__m128i)bits) << 16);
#else
  return bit_cast<FloatVec>(__builtin_convertvector(bits, UintVec) << 16);
#endif
}
static inline FloatVec load(const Float16* from) {
#if defined(__AVX512F__)
  return (FloatVec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#elif defined(__AVX2__)
  return (FloatVec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
#else
  FloatVec x;
  for (int i = 0; i < kFloats; ++i) x[i] = widen(from[i]);
  return x;
#endif
}

static inline void store(float* to, FloatVec x) { __builtin_memcpy(to, &x, sizeof x); }
static inline void store(double* to, DoubleVec x) { __builtin_memcpy(to, &x, sizeof x); }
static inline void store(BFloat16* to, FloatVec x) {
  const UintVec bits = bit_cast<UintVec>(x);
  const UintVec rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const IntVec is_nan = x != x;
  const UintVec chosen = is_nan ? (bits >> 16 | 0x40) : rounded;
#if defined(__AVX512F__)
  _mm256_storeu_si256((__m256i*)to, _mm512_cvtepi32_epi16((__m512i)chosen));
#else
  const HalfBits narrowed = __builtin_convertvector(chosen, HalfBits);
  __builtin_memcpy(to, &narrowed, sizeof narrowed);
#endif
}
static inline void store(Float16* to, FloatVec x) {
#if defined(__AVX512F__)
  _mm256_storeu_si256((__m256i*)to, _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
  _mm_storeu_si128((__m128i*)to, _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kFloats; ++i) narrow(x[i], to[i]);
#endif
}

// The first `count` elements only, the other lanes zero: for the end of a row.
template <typename T>
static inline Vec<Compute<T>> load_part(const T* from, int count) {
  Vec<Compute<T>> x{};
  for (int i = 0; i < count; ++i) x[i] = widen(from[i]);
  return x;
}
template <typename T>
static inline void store_part(T* to, Vec<Compute<T>> x, int count) {
  for (int i = 0; i < count; ++i) narrow(x[i], to[i]);
}

// ---- a group: as many vectors as one vector's bytes of memory fill ----

// A group of bfloat16 is two vectors, of the even and the odd elements: so it is widened and narrowed with a shift or a
// mask, without moving anything between lanes.
template <typename T>
struct Group {
  static constexpr int vectors = 1;
  static constexpr int size = kLanes<Compute<T>>;
  Vec<Compute<T>> part[vectors];
};
template <>
struct Group<BFloat16> {
  static constexpr int vectors = 2;
  static constexpr int size = 2 * kFloats;
  FloatVec part[vectors];
};

template <typename T>
static inline Group<T> load_group(const T* from) { return {{load(from)}}; }
static inline Group<BFloat16> load_group(const BFloat16* from) {
  UintVec bits;
  __builtin_memcpy(&bits, from, sizeof bits);
  return {{bit_cast<FloatVec>(bits << 16), bit_cast<FloatVec>(bits & 0xffff0000u)}};
}

// For numbers computed from bfloat16 numbers: their NaNs come from an operand or are the processor's own, and end in 16
// zeros either way, so that rounding cannot carry them into infinity.
static inline UintVec packed(const Group<BFloat16>& x) {
  UintVec bits[2];
  for (int i = 0; i < 2; ++i) {
    const UintVec b = bit_cast<UintVec>(x.part[i]);
    bits[i] = b + 0x7fff + (b >> 16 & 1);
  }
  return bits[0] >> 16 | (bits[1] & 0xffff0000u);
}
template <typename T>
static inline void store_group(T* to, const Group<T>& x) { store(to, x.part[0]); }
static inline void store_group(BFloat16* to, const Group<BFloat16>& x) {
  const UintVec bits = packed(x);
  __builtin_memcpy(to, &bits, sizeof bits);
}

// Stores around the cache, for outputs too large to be found there again; `to` must be aligned to a whole vector. Only
// for the element types and instruction sets of kCanStream: half a vector at a time it does not pay.
#if defined(__AVX512F__)
static inline void stream_vector(void* to, UintVec x) { _mm512_stream_si512((__m512i*)to, (__m512i)x); }
#elif defined(__AVX2__)
static inline void stream_vector(void* to, UintVec x) { _mm256_stream_si256((__m256i*)to, (__m256i)x); }
#endif
template <typename T>
constexpr bool kCanStream = false;
#if defined(__AVX2__)
template <>
constexpr bool kCanStream<float> = true;
template <>
constexpr bool kCanStream<BFloat16> = true;
static inline void stream(float* to, FloatVec x) { stream_vector(to, bit_cast<UintVec>(x)); }
static inline void stream_group(float* to, const Group<float>& x) { stream(to, x.part[0]); }
static inline void stream_group(BFloat16* to, const Group<BFloat16>& x) { stream_vector(to, packed(x)); }
#endif

// Before other threads may read what was streamed.
static inline void stream_fence() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// If one is NaN, the result is b.
static inline FloatVec max(FloatVec a, FloatVec b) {
#if defined(__AVX512F__)
  return (FloatVec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (FloatVec)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}
static inline DoubleVec max(DoubleVec a, DoubleVec b) { return a > b ? a : b; }
static inline FloatVec min(FloatVec a, FloatVec b) {
#if defined(__AVX512F__)
  return (FloatVec)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (FloatVec)_mm256_min_ps((__m256)a, (__m256)b);
#else
  return a < b ? a : b;
#endif
}
static inline DoubleVec min(DoubleVec a, DoubleVec b) { return a < b ? a : b; }

// -|x|.
static inline FloatVec negative_magnitude(FloatVec x) { return bit_cast<FloatVec>(bit_cast<UintVec>(x) | 0x80000000u); }
static inline DoubleVec negative_magnitude(DoubleVec x) { return x < 0 ? x : -x; }

template <typename Scalar, typename V = Vec<Scalar>>
static inline Scalar sum(V x) {
  Scalar total = 0;
  for (int i = 0; i < kLanes<Scalar>; ++i) total += x[i];
  return total;
}

// The sum of a vector by halves.
template <typename Scalar, int bytes>
struct HalvedVec {
  typedef Scalar type __attribute__((vector_size(bytes)));
};
template <typename Scalar, int bytes = kVectorBytes>
static inline Scalar sum_by_halves(typename HalvedVec<Scalar, bytes>::type x) {
  if constexpr (bytes == 2 * sizeof(Scalar)) {
    return x[0] + x[1];
  } else {
    using Half = typename HalvedVec<Scalar, bytes / 2>::type;
    Half low, high;
    __builtin_memcpy(&low, &x, sizeof low);
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&x) + sizeof low, sizeof high);
    return sum_by_halves<Scalar, bytes / 2>(low + high);
  }
}

}  // namespace hybridgen::HYBRIDGEN_ISA
