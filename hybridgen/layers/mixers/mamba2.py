"""The mixer of Mamba-2. Source: arXiv 2405.21060, sections 6 and 7."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hybridgen.layers.linear import BranchOutput, DepthwiseConv1d, Linear
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
from hybridgen.layers.mixers.mamba1 import MambaState, initial_dt
from hybridgen.layers.norms import GatedRmsNorm
from hybridgen.layers.span import Span
from hybridgen.ops.add_norm.plain import upcast
from hybridgen.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from hybridgen.ops.gated_activation import gated_activation
from hybridgen.ops.mamba_step import MAMBA2_OPERATORS, mamba2_step, refusal
from hybridgen.ops.ssd import ssd_scan, ssd_update
from hybridgen.spec.mamba import Mamba2Spec

NO_NORM = (None, 0.0, False)


class Mamba2(Mixer):
    """`out_proj(norm(ssd(conv([x B C]), dt), z))` with [z0 | x0 | z | x B C | dt] = in_proj(input).

    z0 and x0 are empty unless d_ssm < d_inner; then `act(z0) * x0` is a gated MLP that joins before out_proj.
    With layer_scale all of that times gamma.
    State per row: conv (d_ssm + 2*G*N, d_conv - 1) and ssm (H, P, N).
    """

    float32_parameters = frozenset({"A_log", "D", "dt_bias"})

    def __init__(self, spec: Mamba2Spec, d_model: int) -> None:
        super().__init__()
        self.spec = spec
        d_inner = spec.d_inner(d_model)
        self.d_ssm, self.nheads = spec.d_ssm_for(d_model), spec.nheads(d_model)
        self.d_mlp = d_inner - self.d_ssm
        self.d_bc = spec.ngroups * spec.d_state
        conv_dim = self.d_ssm + 2 * self.d_bc
        self.in_proj = Linear(d_model, 2 * d_inner + 2 * self.d_bc + self.nheads, bias=spec.bias)
        self.conv1d = DepthwiseConv1d(conv_dim, spec.d_conv, spec.conv_bias, spec.conv_init)
        self.dt_bias = nn.Parameter(torch.empty(self.nheads))
        self.A_log = nn.Parameter(torch.empty(self.nheads))
        self.D = nn.Parameter(torch.empty(self.d_ssm if spec.D_has_hdim else self.nheads))
        if spec.rmsnorm:
            self.norm = GatedRmsNorm(self.d_ssm, spec.ngroups, spec.norm_before_gate, spec.gate_activation)
        self.out_proj = BranchOutput(d_inner, d_model, bias=spec.bias)
        self.gamma = None if spec.layer_scale is None else nn.Parameter(torch.empty(d_model))

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value: A uniform in -A_init_range, D = 1, dt log-uniform, gamma = layer_scale."""
        spec = self.spec
        if name == "D":
            return torch.ones(self.D.shape, device="cpu")
        if name == "gamma":
            return torch.full((self.out_proj.out_features,), cast(float, spec.layer_scale), device="cpu")
        if name == "A_log":
            return torch.empty(self.nheads, device="cpu").uniform_(*spec.A_init_range, generator=generator).log()
        return initial_dt((spec.dt_min, spec.dt_max, spec.dt_init_floor), self.nheads, generator)

    def init_state(self, batch_size: int, max_seqlen: int, dtype: torch.dtype, device: torch.device) -> MambaState:
        """Makes an empty state; its size does not depend on max_seqlen."""
        spec = self.spec
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return MambaState(
            torch.zeros(batch_size, self.d_ssm + 2 * self.d_bc, spec.d_conv - 1, dtype=dtype, device=device),
            torch.zeros(batch_size, self.nheads, spec.headdim, spec.d_state, dtype=wide, device=device),
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
        z0, x0, z, xbc, dt = self._parts(x)
        if memory is not None and single_step:
            y = self._step(xbc[:, 0], dt[:, 0], memory)[:, None]
        else:
            y = self._scan(xbc, dt, memory, span)
        return self._gated(y, z, x0, z0)

    def _parts(self, x: Float[Tensor, "B T D"]) -> tuple[Tensor, ...]:
        """Returns z0, x0, z, [x B C] and dt of the tokens."""
        sizes = (self.d_mlp, self.d_mlp, self.d_ssm, self.d_ssm + 2 * self.d_bc, self.nheads)
        return self.in_proj(x).split(sizes, dim=-1)

    def _gated(
        self, y: Float[Tensor, "B T d_ssm"], z: Float[Tensor, "B T d_ssm"], x0: Tensor, z0: Tensor
    ) -> Float[Tensor, "B T D"]:
        """Returns what becomes of the scan's output."""
        y = self.norm(y, z) if self.spec.rmsnorm else gated_activation(y, z, self.spec.gate_activation)
        if self.d_mlp:
            y = torch.cat((gated_activation(x0, z0, self.spec.gate_activation), y), dim=-1)
        return layer_scaled(self.out_proj(y), self.gamma)

    def _fused_step(self, x: Float[Tensor, "B 1 D"], state: MambaState) -> Float[Tensor, "B 1 D"] | None:
        """Returns what forward does in one call, or None if only the single calls can do it."""
        modules, spec = self._modules, self.spec
        in_proj, conv, out_proj, norm = modules["in_proj"], modules["conv1d"], modules["out_proj"], modules.get("norm")
        if not (
            self.gamma is None
            and runs_as_written(in_proj, Linear)
            and runs_as_written(out_proj, BranchOutput)
            and type(conv) is DepthwiseConv1d
            and (not spec.rmsnorm or runs_as_written(norm, GatedRmsNorm))
        ):
            return None
        in_weights, conv_weights, out_weights = weights_of(in_proj), weights_of(conv), weights_of(out_proj)
        parameters = (self.dt_bias, self.A_log, self.D)
        gated_norm = (self.norm.weight, self.norm.eps, self.norm.norm_before_gate) if spec.rmsnorm else NO_NORM
        weights = (*in_weights, *conv_weights, gated_norm[0], *out_weights)
        if refusal(MAMBA2_OPERATORS, x, (state.conv, state.ssm), weights, parameters) is not None:
            return None
        return mamba2_step(
            x, state.conv, state.ssm, in_weights, conv_weights, *parameters, spec.ngroups, spec.dt_limit, gated_norm,
            spec.gate_activation, out_weights,
        )  # fmt: skip

    def _scan(
        self, xbc: Float[Tensor, "B T C"], dt: Float[Tensor, "B T H"], state: MambaState | None, span: Span
    ) -> Float[Tensor, "B T d_ssm"]:
        resets = span.resets()
        xbc, conv = causal_conv1d(
            xbc,
            self.conv1d.taps,
            self.conv1d.bias,
            "silu",
            initial_state=None if state is None else before(state.conv, span),
            resets=resets,
        )
        x, B, C = self._heads(xbc)
        y, ssm = ssd_scan(
            x,
            dt,
            -upcast(self.A_log).exp(),
            B,
            C,
            self._skip(self.D),
            self.dt_bias,
            dt_limit=self.spec.dt_limit,
            chunk_size=self.spec.chunk_size,
            initial_state=None if state is None else before(state.ssm, span),
            resets=resets,
        )
        if state is not None:
            state.conv.copy_(conv.detach())
            state.ssm.copy_(ssm.detach())
        return y.flatten(-2)

    def _step(self, xbc: Float[Tensor, "B C"], dt: Float[Tensor, "B H"], state: MambaState) -> Float[Tensor, "B d_ssm"]:
        xbc = causal_conv1d_update(xbc, state.conv, self.conv1d.taps, self.conv1d.bias, "silu")
        x, B, C = self._heads(xbc)
        A = -upcast(self.A_log).exp()
        y = ssd_update(state.ssm, x, dt, A, B, C, self._skip(self.D), self.dt_bias, dt_limit=self.spec.dt_limit)
        return y.flatten(-2)

    def _heads(self, xbc: Float[Tensor, "*batch C"]) -> tuple[Tensor, Tensor, Tensor]:
        """Splits the convolution's output into x (..., H, P), B and C (..., G, N)."""
        x, B, C = xbc.split((self.d_ssm, self.d_bc, self.d_bc), dim=-1)
        groups = (self.spec.ngroups, self.spec.d_state)
        return x.unflatten(-1, (self.nheads, self.spec.headdim)), B.unflatten(-1, groups), C.unflatten(-1, groups)

    def _skip(self, D: Tensor) -> Tensor:
        return D.unflatten(0, (self.nheads, self.spec.headdim)) if self.spec.D_has_hdim else D
