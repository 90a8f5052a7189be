// The gradient of Mamba-2's scan, segment by segment from the end. A segment's states are recomputed from the kept one.
#include "ssd_backward_chunk.h"

namespace hybridgen::HYBRIDGEN_ISA {

namespace {

// The gradient of the final state in both layouts, and that of the initial state out of one of them.
template <typename Scalar>
void load_gradient(const SsdBackward& args, const Scratch<Scalar>& scratch, Scalar* G, int64_t index) {
  constexpr int width = kPanel<Scalar>;
  const SsdInputs& in = args.in;
  const Scalar* from = args.dfinal ? static_cast<const Scalar*>(args.dfinal) + index * in.P * in.N : nullptr;
  for (int64_t p = 0; p < scratch.P; ++p)
    for (int64_t n = 0; n < scratch.N; ++n) {
      const Scalar value = from && p < in.P && n < in.N ? from[p * in.N + n] : Scalar(0);
      G[(p / width * scratch.N + n) * width + p % width] = value;
      G[scratch.size + (n / width * scratch.P + p) * width + n % width] = value;
    }
}

template <typename Scalar>
void save_gradient(const SsdBackward& args, const Scratch<Scalar>& scratch, const Scalar* G, int64_t index) {
  constexpr int width = kPanel<Scalar>;
  const SsdInputs& in = args.in;
  Scalar* to = static_cast<Scalar*>(args.dinitial) + index * in.P * in.N;
  for (int64_t p = 0; p < in.P; ++p)
    for (int64_t n = 0; n < in.N; ++n)
      to[p * in.N + n] = G[scratch.size + (n / width * scratch.P + p) * width + n % width];
}

// Heads of one group, at most kSsdBackwardHeads, over all tokens.
template <typename T>
void heads_gradient(
    const SsdBackward& args, const Scratch<Compute<T>>& scratch, int64_t row, int64_t slice, int64_t first, int64_t last,
    bool add) {
  using Scalar = Compute<T>;
  const SsdInputs& in = args.in;
  const int64_t group = first / (in.H / in.G);
  for (int64_t head = first; head < last; ++head) {
    load_gradient(args, scratch, scratch.gradients + (head - first) * 2 * scratch.size, row * in.H + head);
    static_cast<Scalar*>(args.dA)[row * in.H + head] = 0;
    for (int64_t p = 0; p < in.P; ++p) static_cast<Scalar*>(args.dD)[(row * in.H + head) * in.P + p] = 0;
  }
  Chunk chunks[kSsdSegment];
  for (int64_t t = (in.T - 1) / kSsdSegment * kSsdSegment; t >= 0 && in.T > 0; t -= kSsdSegment) {
    const int64_t count = plan_chunks(in, row, t, chunks);
    for (int64_t c = 0; c < count; ++c) prepare_group<T>(in, scratch, row, group, chunks[c], c);
    for (int64_t head = first; head < last; ++head) {
      recompute_states<T>(args, scratch, row, head, t, chunks, count);
      for (int64_t c = count - 1; c >= 0; --c) {
        const int64_t at = (((slice * in.batch + row) * in.T + chunks[c].start) * in.G + group) * in.N;
        Scalar* G = scratch.gradients + (head - first) * 2 * scratch.size;
        chunk_gradient<T>(
            args, scratch,
            {row, head, group, c, chunks[c], G, G + scratch.size, static_cast<Scalar*>(args.dB) + at,
             static_cast<Scalar*>(args.dC) + at, add || head > first});
      }
    }
  }
  for (int64_t head = first; head < last; ++head)
    save_gradient(args, scratch, scratch.gradients + (head - first) * 2 * scratch.size, row * in.H + head);
}

template <typename T>
void run_job(const SsdBackward& args, int64_t job) {
  using Scalar = Compute<T>;
  const SsdInputs& in = args.in;
  const Scratch<Scalar> scratch(static_cast<Scalar*>(args.scratch) + job * args.scratch_size, in);
  const int64_t heads = in.H / in.G, slice = job % in.slices, group = job / in.slices % in.G;
  const int64_t row = job / in.slices / in.G;
  const int64_t first = group * heads + heads * slice / in.slices, last = group * heads + heads * (slice + 1) / in.slices;
  for (int64_t head = first; head < last; head += kSsdBackwardHeads)
    heads_gradient<T>(
        args, scratch, row, slice, head, last - head < kSsdBackwardHeads ? last : head + kSsdBackwardHeads, head > first);
}

}  // namespace

void ssd_backward(const SsdBackward& args, int64_t first_job, int64_t last_job) {
  with_element(args.in.element, [&]<typename T>() {
    for (int64_t job = first_job; job < last_job; ++job) run_job<T>(args, job);
  });
}

void ssd_sum_slices(const SsdSum& args, int64_t first, int64_t last) {
  with_element(args.element, [&]<typename T>() {
    const auto* parts = static_cast<const Compute<T>*>(args.parts);
    for (int64_t i = first; i < last; ++i) {
      Compute<T> total = 0;
      for (int64_t slice = 0; slice < args.slices; ++slice) total += parts[slice * args.count + i];
      narrow(total, static_cast<T*>(args.out)[i]);
    }
  });
}

}  // namespace hybridgen::HYBRIDGEN_ISA
