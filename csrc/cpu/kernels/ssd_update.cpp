// One more token of Mamba-2's scan: every state (P, N) is read and written once, lanes over N.
#include "ssd_chunk.h"

namespace hybridgen::HYBRIDGEN_ISA {

namespace {

// How far ahead a state is fetched, in numbers: of a model's states none is left in the nearer caches when its turn
// comes again. Prefetching past the end does no harm.
constexpr int64_t kAhead = 1024;

// `count` rows of a state at a time: h = decay h + step B, y = h C.
template <int count, typename Scalar>
inline void update_rows(
    Scalar* state, int64_t stride, Scalar decay, const Scalar* steps, const Scalar* B, const Scalar* C, int64_t N,
    Scalar* y) {
  constexpr int lanes = kLanes<Scalar>;
  Vec<Scalar> sums[count] = {};
  int64_t n = 0;
  for (; n + lanes <= N; n += lanes) {
    const Vec<Scalar> b = load(B + n), c = load(C + n);
#pragma GCC unroll 4
    for (int r = 0; r < count; ++r) {
      __builtin_prefetch(state + r * stride + n + kAhead, 1, 2);
      const Vec<Scalar> h = load(state + r * stride + n) * decay + steps[r] * b;
      store(state + r * stride + n, h);
      sums[r] += h * c;
    }
  }
  for (int r = 0; r < count; ++r) {
    y[r] = sum_by_halves<Scalar>(sums[r]);
    for (int64_t m = n; m < N; ++m) {
      const Scalar h = state[r * stride + m] * decay + steps[r] * B[m];
      state[r * stride + m] = h;
      y[r] += h * C[m];
    }
  }
}

// B and C are copied in pieces of this many numbers: any N goes through a buffer of fixed size.
constexpr int64_t kPiece = 256;

template <typename T>
void update_head(const SsdUpdate& args, int64_t row, int64_t head) {
  using Scalar = Compute<T>;
  const SsdInputs& in = args.in;
  const int64_t group = head / (in.H / in.G);
  Steps<Scalar> step;
  step_sizes(in, row, head, Chunk{0, 1, false}, step);
  const T* x = static_cast<const T*>(in.x) + row * in.x_batch + head * in.x_head;
  const T* B = static_cast<const T*>(in.B) + row * in.B_batch + group * in.B_group;
  const T* C = static_cast<const T*>(in.C) + row * in.C_batch + group * in.C_group;
  T* y = static_cast<T*>(args.y) + (row * in.H + head) * in.P;
  Scalar* state = static_cast<Scalar*>(args.state) + row * args.state_batch + head * args.state_head;
  const Scalar* D = in.D ? static_cast<const Scalar*>(in.D) + head * in.D_head : nullptr;
  Scalar wide_B[kPiece], wide_C[kPiece];
  for (int64_t p = 0; p < in.P; p += 4) {
    const int rows = in.P - p < 4 ? static_cast<int>(in.P - p) : 4;
    Scalar inputs[4], steps[4], sums[4] = {}, part[4];
    for (int r = 0; r < rows; ++r) {
      inputs[r] = widen(x[p + r]);
      steps[r] = inputs[r] * step.dt[0];
    }
    for (int64_t n = 0; n < in.N; n += kPiece) {
      const int64_t count = in.N - n < kPiece ? in.N - n : kPiece;
      if (p == 0 || in.N > kPiece) {
        copy_row(wide_B, B + n, count, 0);
        copy_row(wide_C, C + n, count, 0);
      }
      Scalar* at = state + p * args.state_channel + n;
      if (rows == 4) {
        update_rows<4>(at, args.state_channel, step.decay[0], steps, wide_B, wide_C, count, part);
      } else {
        for (int r = 0; r < rows; ++r)
          update_rows<1>(at + r * args.state_channel, 0, step.decay[0], steps + r, wide_B, wide_C, count, part + r);
      }
      for (int r = 0; r < rows; ++r) sums[r] += part[r];
    }
    for (int r = 0; r < rows; ++r) {
      const Scalar skip = D ? D[(p + r) * in.D_channel] * inputs[r] : Scalar(0);
      narrow(sums[r] + skip, y[p + r]);
    }
  }
}

}  // namespace

void ssd_update(const SsdUpdate& args, int64_t first_head, int64_t last_head) {
  with_element(args.in.element, [&]<typename T>() {
    for (int64_t i = first_head; i < last_head; ++i) update_head<T>(args, i / args.in.H, i % args.in.H);
  });
}

}  // namespace hybridgen::HYBRIDGEN_ISA
