#pragma once

#include "kernels.h"

namespace hybridgen {

// Tokens per chunk: states are kept at chunk starts, and a chunk's working set stays in the cache.
constexpr int64_t kScanChunk = 64;
// Channels per work item of the one-token update.
constexpr int64_t kUpdateBlock = 16;

// A tensor (B, T, D) or (B, T, G, N) with a dense last dimension, its strides in elements. A scan from the last token
// to the first is one from the first to the last over sequences whose `data` is the last token and whose `time` is
// negative: the kernels know only that.
struct Sequence {
  void* data = nullptr;
  int64_t batch = 0, time = 0, group = 0;
};

// Sequences and `element` are of the tensors' dtype; parameters and states are dense and of the compute dtype.
struct SelectiveScan {
  Sequence u, dt, z, B, C, y;
  const void* A;              // (D, N)
  const void* D;              // (D) or null
  const void* dt_bias;        // (D) or null
  const void* initial_state;  // (B, D, N) or null
  void* final_state;          // (B, D, N) or null
  void* kept;                 // (chunks, B, N, D), the states before each chunk, or null
  Sequence resets;            // bytes; data may be null
  bool reverse;               // the first token that is scanned has no byte in `resets`
  int64_t batch, T, channels, groups, N;
  int64_t splits;  // tasks per batch row and group: task = (row * groups + group) * splits + split
  Element element;
  int32_t activation;
  // Of the forward kernel only: y = (scan + added) * scale * act(z), without z y = scan + added.
  Sequence added;             // data may be null
  double scale = 1;
  bool A_is_log = false;      // what is given as A is log(-A)
  int64_t dt_rank = 0;        // if not 0, dt is (B, T, dt_rank), and dt_weight times that is meant
  const void* dt_weight = nullptr;  // (D, dt_rank) of the tensors' dtype
};

struct SelectiveScanBackward {
  SelectiveScan scan;  // without outputs
  Sequence grad_y, grad_u, grad_dt, grad_z;
  const void* grad_final;  // (B, D, N) or null
  void* grad_initial;      // (B, D, N)
  // Of the compute dtype, parts to be summed over the first dimension.
  void* grad_A;          // (B, N, D)
  void* grad_D;          // (B, D)
  void* grad_bias;       // (B, D)
  Sequence grad_B;       // (splits * B, T, G, N)
  Sequence grad_C;
};

// One token; every row of u, dt, z, y is `channels` long, B and C are (B, G, N).
struct SelectiveUpdate {
  Sequence u, dt, z, B, C, y;
  const void* A;
  const void* D;
  const void* dt_bias;
  void* state;  // (B, D, N)
  int64_t channels, groups, N;
  Element element;
  int32_t activation;
  bool A_is_log = false;  // what is given as A is log(-A)
};

}  // namespace hybridgen

HYBRIDGEN_KERNEL(selective_scan_forward, const hybridgen::SelectiveScan& args, int64_t first_task, int64_t last_task)
HYBRIDGEN_KERNEL(
    selective_scan_backward, const hybridgen::SelectiveScanBackward& args, int64_t first_task, int64_t last_task)
// `item` counts blocks of kUpdateBlock channels over all rows.
HYBRIDGEN_KERNEL(
    selective_state_update, const hybridgen::SelectiveUpdate& args, int64_t first_item, int64_t last_item)
