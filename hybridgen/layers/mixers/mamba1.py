"""The mixer of the first Mamba. Source: arXiv 2312.00752, algorithm 2 and section 3.4."""

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hybridgen.layers.linear import BranchOutput, DepthwiseConv1d, Linear, uniform
from hybridgen.layers.mixers.base import (
    Mixer,
    MixerState,
    before,
    is_single_step,
    layer_scaled,
    plain_span,
    runs_as_written,
    weights_of,
)
from hybridgen.layers.span import Span
from hybridgen.ops.add_norm.plain import upcast
from hybridgen.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from hybridgen.ops.linear import linear
from hybridgen.ops.mamba_step import MAMBA1_OPERATORS, mamba1_step, refusal
from hybridgen.ops.selective_scan import selective_scan, selective_state_update
from hybridgen.spec.mamba import Mamba1Spec


@dataclass
class MambaState(MixerState):
    """State of a Mamba mixer of either version.

    Attributes:
        conv: (B, C, K-1) last inputs of the convolution, newest last, in the model's dtype.
        ssm: (B, D, N) for Mamba-1, (B, H, P, N) for Mamba-2, float32 (float64 in float64 models).
    """

    conv: Tensor
    ssm: Tensor


def initial_dt(spec_range: tuple[float, float, float], count: int, generator: torch.Generator) -> Tensor:
    """Returns biases whose softplus is log-uniform in [dt_min, dt_max], clamped to at least the floor.

    Args:
        spec_range: dt_min, dt_max, dt_init_floor.
        count: Number of biases.
        generator: Source of randomness.
    """
    dt_min, dt_max, floor = spec_range
    share = torch.rand(count, generator=generator, device="cpu")
    dt = torch.exp(share * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min)).clamp(min=floor)
    # The inverse of softplus, in the form that does not overflow for large dt.
    return dt + torch.log(-torch.expm1(-dt))


class DtProjection(nn.Linear):
    """The linear map from the dt bottleneck (dt_rank) to one step size per channel."""

    float32_parameters = frozenset({"bias"})

    def __init__(self, spec: Mamba1Spec, dt_rank: int, d_inner: int) -> None:
        super().__init__(dt_rank, d_inner)
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        """Maps the last axis, without the bias: the scan adds it in float32."""
        return linear(x, self.weight)

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value: a weight that keeps the variance, a bias that spreads dt over its range."""
        if name == "bias":
            spec = self.spec
            return initial_dt((spec.dt_min, spec.dt_max, spec.dt_init_floor), self.out_features, generator)
        bound = self.in_features**-0.5 * self.spec.dt_scale
        if self.spec.dt_init == "constant":
            return torch.full(self.weight.shape, bound, device="cpu")
        return uniform(self.weight.shape, bound, generator)


class BottleneckNorm(nn.Module):
    """RMS norm of dt, B or C, with weights (Jamba) or without (FalconMamba)."""

    def __init__(self, dim: int, learned: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim)) if learned else None

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value of `weight`: ones."""
        return torch.ones(cast(Tensor, self.weight).shape, device="cpu")

    def forward(self, x: Float[Tensor, "B T R"]) -> Float[Tensor, "B T R"]:
        """Normalises the last axis in float32; returns x's dtype."""
        wide = upcast(x)
        weight = None if self.weight is None else self.weight.to(wide.dtype)
        return F.rms_norm(wide, wide.shape[-1:], weight, 1e-6).to(x.dtype)


class Mamba1(Mixer):
    """`out_proj(scan(act(conv(x))) * act(z))` with [x | z] = in_proj(input) and dt, B, C computed from x.

    With layer_scale all of that times gamma. State per row: conv (d_inner, d_conv - 1) and ssm (d_inner, d_state).
    """

    float32_parameters = frozenset({"A_log", "D"})

    def __init__(self, spec: Mamba1Spec, d_model: int) -> None:
        super().__init__()
        self.spec = spec
        d_inner, dt_rank = spec.d_inner(d_model), spec.dt_rank_for(d_model)
        self.d_inner, self.dt_rank = d_inner, dt_rank
        self.in_proj = Linear(d_model, 2 * d_inner, bias=spec.bias)
        self.conv1d = DepthwiseConv1d(d_inner, spec.d_conv, spec.conv_bias)
        self.x_proj = Linear(d_inner, dt_rank + 2 * spec.d_state, bias=False)
        self.dt_proj = DtProjection(spec, dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.empty(d_inner, spec.d_state))
        self.D = nn.Parameter(torch.empty(d_inner))
        self.out_proj = BranchOutput(d_inner, d_model, bias=spec.bias)
        if spec.bcdt_norm != "none":
            learned = spec.bcdt_norm == "learned"
            self.dt_norm = BottleneckNorm(dt_rank, learned)
            self.B_norm = BottleneckNorm(spec.d_state, learned)
            self.C_norm = BottleneckNorm(spec.d_state, learned)
        self.gamma = None if spec.layer_scale is None else nn.Parameter(torch.empty(d_model))

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value: A = -1, -2, ..., -N in every channel (S4D-Real), D = 1, gamma = layer_scale."""
        if name == "D":
            return torch.ones(self.d_inner, device="cpu")
        if name == "gamma":
            return torch.full((self.out_proj.out_features,), cast(float, self.spec.layer_scale), device="cpu")
        row = torch.arange(1, self.spec.d_state + 1, dtype=torch.float32, device="cpu").log()
        return row.repeat(self.d_inner, 1)

    def init_state(self, batch_size: int, max_seqlen: int, dtype: torch.dtype, device: torch.device) -> MambaState:
        """Makes an empty state; its size does not depend on max_seqlen."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return MambaState(
            torch.zeros(batch_size, self.d_inner, self.spec.d_conv - 1, dtype=dtype, device=device),
            torch.zeros(batch_size, self.d_inner, self.spec.d_state, dtype=wide, device=device),
        )

    def forward(
        self, x: Float[Tensor, "B T D"], state: MixerState | None = None, span: Span | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mixes the tokens; see `Mixer.forward`."""
        span = span or plain_span(x)
        memory = cast(MambaState | None, state)
        single_step = memory is not None and is_single_step(x, memory, span)
        if memory is not None and single_step:
            out = self._fused_step(x, memory)
            if out is not None:
                return out
        values, z = self.in_proj(x).chunk(2, dim=-1)
        if memory is not None and single_step:
            return layer_scaled(self.out_proj(self._step(values[:, 0], z[:, 0], memory)[:, None]), self.gamma)
        resets = span.resets()
        values, conv = causal_conv1d(
            values,
            self.conv1d.taps,
            self.conv1d.bias,
            self.spec.conv_activation,
            initial_state=None if memory is None else before(memory.conv, span),
            resets=resets,
        )
        dt, B, C = self._dt_b_c(values)
        y, ssm = selective_scan(
            values,
            dt,
            -upcast(self.A_log).exp(),
            B[:, :, None],
            C[:, :, None],
            self.D,
            z,
            self.dt_proj.bias,
            gate_activation=self.spec.gate_activation,
            initial_state=None if memory is None else before(memory.ssm, span),
            resets=resets,
        )
        if memory is not None:
            memory.conv.copy_(conv.detach())
            memory.ssm.copy_(ssm.detach())
        return layer_scaled(self.out_proj(y), self.gamma)

    def _fused_step(self, x: Float[Tensor, "B 1 D"], state: MambaState) -> Float[Tensor, "B 1 D"] | None:
        """Returns what forward does in one call, or None if only the single calls can do it."""
        modules = self._modules
        in_proj, conv, x_proj = modules["in_proj"], modules["conv1d"], modules["x_proj"]
        dt_proj, out_proj = modules["dt_proj"], modules["out_proj"]
        if not (
            self.spec.bcdt_norm == "none"
            and self.gamma is None
            and runs_as_written(in_proj, Linear)
            and runs_as_written(x_proj, Linear)
            and runs_as_written(out_proj, BranchOutput)
            and type(conv) is DepthwiseConv1d
            and runs_as_written(dt_proj, DtProjection)
        ):
            return None
        in_weights, conv_weights, out_weights = weights_of(in_proj), weights_of(conv), weights_of(out_proj)
        x_weight, (dt_weight, dt_bias) = weights_of(x_proj)[0], weights_of(dt_proj)
        A_log, D = self.A_log, self.D
        weights = (*in_weights, *conv_weights, x_weight, dt_weight, *out_weights)
        if refusal(MAMBA1_OPERATORS, x, (state.conv, state.ssm), weights, (A_log, D, dt_bias)) is not None:
            return None
        return mamba1_step(
            x, state.conv, state.ssm, in_weights, conv_weights, self.spec.conv_activation, x_weight,
            (dt_weight, dt_bias), A_log, D, self.spec.gate_activation, out_weights,
        )  # fmt: skip

    def _step(self, value: Float[Tensor, "B C"], z: Float[Tensor, "B C"], state: MambaState) -> Float[Tensor, "B C"]:
        value = causal_conv1d_update(value, state.conv, self.conv1d.taps, self.conv1d.bias, self.spec.conv_activation)
        dt, B, C = self._dt_b_c(value[:, None])
        return selective_state_update(
            state.ssm,
            value,
            dt[:, 0],
            -upcast(self.A_log).exp(),
            B,
            C,
            self.D,
            z,
            self.dt_proj.bias,
            gate_activation=self.spec.gate_activation,
        )

    def _dt_b_c(self, value: Float[Tensor, "B T C"], suffix: str = "") -> tuple[Tensor, Tensor, Tensor]:
        """Returns dt (B, T, C) before its bias, B and C (B, T, N), by the projections whose names end so."""
        dt, B, C = self._low_dt_b_c(value, suffix)
        return getattr(self, f"dt_proj{suffix}")(dt), B, C

    def _low_dt_b_c(self, value: Float[Tensor, "B T C"], suffix: str) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the same with dt (B, T, dt_rank) before its weight."""
        sizes = (self.dt_rank, self.spec.d_state, self.spec.d_state)
        dt, B, C = getattr(self, f"x_proj{suffix}")(value).split(sizes, dim=-1)
        if self.spec.bcdt_norm != "none":
            dt, B, C = self.dt_norm(dt), self.B_norm(B), self.C_norm(C)
        return dt, B, C
