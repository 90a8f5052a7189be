#pragma once

#include "kernels.h"

namespace hybridgen {

// The scan runs in chunks of at most this many tokens, which also end before a reset and with a segment.
constexpr int kSsdChunk = 16;
// Tokens per segment: B, C and their products are prepared for a segment, and the backward pass restarts from the state
// before it.
constexpr int kSsdSegment = 64;
// Heads that share one preparation of B and C.
constexpr int kSsdHeads = 16;
constexpr int kSsdBackwardHeads = 8;

// x (batch, T, H, P), dt (batch, T, H), B and C (batch, T, G, N), states (batch, H, P, N). Strides in elements; those of
// the last dimensions are 1, but for dt and resets. A, D, dt_bias and states have the dtype of the arithmetic.
struct SsdInputs {
  const void *x, *dt, *A, *B, *C, *D, *dt_bias, *initial_state;
  const uint8_t* resets;
  int64_t x_batch, x_time, x_head;
  int64_t dt_batch, dt_time, dt_head;
  int64_t B_batch, B_time, B_group;
  int64_t C_batch, C_time, C_group;
  int64_t D_head, D_channel;
  int64_t resets_batch, resets_time;
  int64_t batch, T, H, P, G, N;
  double dt_min, dt_max;
  Element element, dt_element;
  // The heads of a group are shared out to this many jobs; job = (row of the batch * G + group) * slices + slice.
  int64_t slices;
  // The most chunks in one segment.
  int64_t chunks;
};

// Rows of states in scratch memory are padded to whole vectors, of any instruction set.
static constexpr int64_t ssd_padded(int64_t size) { return (size + 31) / 32 * 32; }

struct SsdForward {
  SsdInputs in;
  void *y, *final_state;
  // The state before each segment, (batch, segments, H, N, P), or null.
  void* kept;
  // Per job, ssd_forward_scratch numbers.
  void* scratch;
  int64_t scratch_size;
};

static constexpr int64_t ssd_forward_scratch(int64_t N, int64_t P, int64_t chunks) {
  constexpr int64_t Q = kSsdChunk;
  return kSsdHeads * ssd_padded(N) * ssd_padded(P) + chunks * Q * (2 * ssd_padded(N) + 2 * Q + 3) + Q * 64 + 64;
}

struct SsdBackward {
  SsdInputs in;
  const void *kept, *dy, *dfinal;  // dfinal may be null
  int64_t dy_batch, dy_time, dy_head;
  // dx in x's dtype; in the dtype of the arithmetic ddt (batch, T, H), dA (batch, H), dD (batch, H, P), dinitial
  // (batch, H, P, N), and per slice dB and dC, (slices, batch, T, G, N).
  void *dx, *ddt, *dA, *dB, *dC, *dD, *dinitial;
  // Per job, ssd_backward_scratch numbers.
  void* scratch;
  int64_t scratch_size;
};

static constexpr int64_t ssd_backward_scratch(int64_t N, int64_t P, int64_t chunks) {
  constexpr int64_t Q = kSsdChunk;
  return (2 * kSsdBackwardHeads + chunks) * ssd_padded(N) * ssd_padded(P) +
         chunks * Q * (4 * ssd_padded(N) + Q) + Q * (6 * ssd_padded(P) + 5 * Q + 3 * 16);
}

// out = the sum of the slices (slices, count), in `element`.
struct SsdSum {
  void* out;
  const void* parts;
  int64_t slices, count;
  Element element;
};

struct SsdUpdate {
  SsdInputs in;  // with T = 1, and no initial state
  void *y, *state;
  int64_t state_batch, state_head, state_channel;
};

}  // namespace hybridgen

HYBRIDGEN_KERNEL(ssd_forward, const hybridgen::SsdForward& args, int64_t first_job, int64_t last_job)
HYBRIDGEN_KERNEL(ssd_backward, const hybridgen::SsdBackward& args, int64_t first_job, int64_t last_job)
HYBRIDGEN_KERNEL(ssd_sum_slices, const hybridgen::SsdSum& args, int64_t first, int64_t last)
HYBRIDGEN_KERNEL(ssd_update, const hybridgen::SsdUpdate& args, int64_t first_head, int64_t last_head)
