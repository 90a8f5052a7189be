#pragma once

#include "kernels.h"

namespace hybridgen {

// What forward and backward read. Time runs in the direction of the convolution: a reversed call points at the last
// token and has negative strides. Positions -(K-1)..-1 are the carried inputs.
struct ConvInput {
  const void* x;        // (B, T, C), channels dense
  const void* history;  // (B, K-1, C) in x's dtype, or null: zeros
  const void* zeros;    // (C) in x's dtype: what a token sees beyond the start of its sequence
  const void* taps;     // (K + 1, C) in the compute dtype; the last row is the bias
  const uint8_t* resets;  // (B, T) in memory order, or null
  int64_t x_batch, x_time, tokens, channels, width;
  Element element;
  int32_t activation;
  bool reverse;
};

struct ConvForward {
  ConvInput input;
  void* y;            // (B, T, C)
  void* final_state;  // (B, C, K-1)
  int64_t y_batch, y_time;
};

struct ConvBackward {
  ConvInput input;
  const void* grad;        // (B, T, C) in x's dtype
  const void* grad_final;  // (B, K-1, C) in the compute dtype, or null
  void* dx;                // (B, T, C)
  void* dhistory;          // (B, K-1, C) in the compute dtype, or null
  void* partial;           // (B, time chunks, K + 1, C) in the compute dtype: gradients of taps and bias
  int64_t grad_batch, grad_time, dx_batch, dx_time;
};

// One token: shapes x and y (B, C), state (B, C, K-1), weight (C, K), each with its strides.
struct ConvUpdate {
  void* y;
  const void* x;
  void* state;
  const void* weight;
  const void* bias;
  int64_t x_batch, state_batch, state_channel, weight_channel, channels, width;
  Element element, weight_element;
  int32_t activation;
};

// The work is cut into tasks of so many tokens and channels, numbered batch by batch, then by time, then by channel.
constexpr int64_t kConvChannels = 256;
constexpr int64_t kConvForwardTokens = 64;
constexpr int64_t kConvBackwardTokens = 256;

}  // namespace hybridgen

HYBRIDGEN_KERNEL(causal_conv1d_forward, const hybridgen::ConvForward& args, int64_t first_task, int64_t last_task)
HYBRIDGEN_KERNEL(causal_conv1d_backward, const hybridgen::ConvBackward& args, int64_t first_task, int64_t last_task)
HYBRIDGEN_KERNEL(causal_conv1d_update, const hybridgen::ConvUpdate& args, int64_t first_channel, int64_t last_channel)
