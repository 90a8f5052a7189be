// Peers of the benchmarks in plain C++, compiled by benchlib.py for the machine at hand.
#include <cmath>
#include <cstdint>
#include <initializer_list>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

constexpr int kLanes = 64;

// 2^x of 64 numbers in registers: the degree-5 polynomial that float32 needs, and the power of two.
inline void exp2_lanes(const float* x, float* sum) {
#if defined(__AVX512F__)
  for (int i = 0; i < kLanes; i += 16) {
    const __m512 v = _mm512_loadu_ps(x + i);
    const __m512 f = _mm512_sub_ps(v, _mm512_roundscale_ps(v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
    __m512 p = _mm512_set1_ps(0.00187757669f);
    for (float c : {0.00898933969f, 0.0558263175f, 0.240153611f, 0.693153083f, 0.99999994f}) {
      p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(c));
    }
    _mm512_storeu_ps(sum + i, _mm512_add_ps(_mm512_loadu_ps(sum + i), _mm512_scalef_ps(p, v)));
  }
#else
  for (int i = 0; i < kLanes; ++i) {
    const float n = std::floor(x[i]), f = x[i] - n;
    float p = 0.00187757669f * f + 0.00898933969f;
    p = p * f + 0.0558263175f;
    p = p * f + 0.240153611f;
    p = p * f + 0.693153083f;
    p = p * f + 0.99999994f;
    union {
      int32_t bits;
      float value;
    } scale{(static_cast<int32_t>(n) + 127) << 23};
    sum[i] += p * scale.value;
  }
#endif
}

volatile float sink;

}  // namespace

extern "C" {

// Computes end - begin exponentials.
void exps(int64_t begin, int64_t end) {
  float x[kLanes], sum[kLanes] = {};
  for (int i = 0; i < kLanes; ++i) x[i] = -0.37f * i;
  for (int64_t done = begin; done < end; done += kLanes) {
    exp2_lanes(x, sum);
#if defined(__GNUC__)
    __asm__ volatile("" : "+m"(x));  // so that the loop is not computed once for all
#endif
  }
  for (int i = 1; i < kLanes; ++i) sum[0] += sum[i];  // every lane is needed
  sink = sum[0];
}

// The selective scan as a scalar loop with expf, as llama.cpp's ggml_ssm_scan has it: channels begin ... end - 1 of
// (T, channels) tensors with softplus, bias, skip and silu gate; B and C are (T, states).
void selective_scan_scalar(
    int64_t begin, int64_t end, int64_t T, int64_t channels, int64_t states, float* y, const float* u, const float* dt,
    const float* A, const float* B, const float* C, const float* D, const float* z, const float* dt_bias) {
  for (int64_t d = begin; d < end; ++d) {
    float h[256] = {};
    for (int64_t t = 0; t < T; ++t) {
      const int64_t at = t * channels + d;
      const float raw = dt[at] + dt_bias[d];
      const float step = raw > 20 ? raw : log1pf(expf(raw));
      float sum = 0;
      for (int64_t n = 0; n < states; ++n) {
        h[n] = expf(step * A[d * states + n]) * h[n] + step * B[t * states + n] * u[at];
        sum += h[n] * C[t * states + n];
      }
      y[at] = (sum + D[d] * u[at]) * (z[at] / (1 + expf(-z[at])));
    }
  }
}
}
