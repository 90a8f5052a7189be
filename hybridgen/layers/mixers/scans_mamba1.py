"""Mamba-1's mixer over several orders of its tokens. Source: Vision Mamba, arXiv 2401.09417, algorithm 1."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hybridgen.layers.linear import DepthwiseConv1d, Linear, uniform
from hybridgen.layers.mixers.base import MixerState, layer_scaled, plain_span, runs_as_written
from hybridgen.layers.mixers.directions import (
    Direction,
    NonCausal,
    directions_of,
    is_there_and_back,
    sum_over_directions,
)
from hybridgen.layers.mixers.mamba1 import DtProjection, Mamba1
from hybridgen.layers.span import Span
from hybridgen.ops.add_norm.plain import upcast
from hybridgen.ops.backends import runs_natively
from hybridgen.ops.causal_conv1d import causal_conv1d
from hybridgen.ops.gated_activation import gated_activation, gated_activation_two_way
from hybridgen.ops.reverse import flipped_resets
from hybridgen.ops.selective_scan import selective_scan
from hybridgen.ops.selective_scan.two_way import ScanDirection, selective_scan_two_way, two_way_refusal
from hybridgen.spec.mamba import Mamba1Spec


class BackwardDtProjection(DtProjection):
    """The same map for a further direction as Vim starts it: dt around softplus(0) = 0.69 in every channel."""

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value: torch's own weight of a linear map, a bias of zero."""
        if name == "bias":
            return torch.zeros(self.out_features, device="cpu")
        return uniform(self.weight.shape, self.in_features**-0.5, generator)


class ScansMamba1(NonCausal, Mamba1):
    """`out_proj(sum_k scan_k(act(conv_k(x))) * act(z))`, each scan in an order of its own.

    Every direction is gated by the same token's z, so the gate multiplies the sum. What directions share is computed
    once where its inputs are the same. bcdt_norm has one set of norms for all directions.
    """

    def __init__(self, spec: Mamba1Spec, d_model: int) -> None:
        super().__init__(spec, d_model)
        self.directions = directions_of(spec)
        self._kinds: dict[str, str] = {}
        for direction in self.directions[1:]:
            self._add_parameters(direction)
        self.float32_parameters = Mamba1.float32_parameters | self._kinds.keys()
        shared = spec.shared()
        self._is_pair = is_there_and_back(self.directions)
        self._conv_once, self._proj_once = "conv" in shared, {"conv", "proj"} <= shared
        self._scale = 1 / len(self.directions) if spec.divide_out else 1.0

    def _add_parameters(self, direction: Direction) -> None:
        spec = self.spec
        if direction.conv:
            conv = DepthwiseConv1d(self.d_inner, spec.d_conv, spec.conv_bias)
            self.add_module(f"conv1d{direction.conv}", conv)
        if direction.proj:
            x_proj = Linear(self.d_inner, self.dt_rank + 2 * spec.d_state, bias=False)
            self.add_module(f"x_proj{direction.proj}", x_proj)
            kind = BackwardDtProjection if spec.backward_dt_init == "upstream" else DtProjection
            self.add_module(f"dt_proj{direction.proj}", kind(spec, self.dt_rank, self.d_inner))
        if direction.A:
            self.register_parameter(f"A{direction.A}_log", nn.Parameter(torch.empty(self.A_log.shape)))
            self._kinds[f"A{direction.A}_log"] = "A_log"
        if direction.D:
            self.register_parameter(f"D{direction.D}", nn.Parameter(torch.empty(self.D.shape)))
            self._kinds[f"D{direction.D}"] = "D"

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value: in every direction that of the first."""
        return super().initial_value(self._kinds.get(name, name), generator)

    def forward(
        self, x: Float[Tensor, "B T D"], state: MixerState | None = None, span: Span | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mixes the tokens of whole sequences; see `Mixer.forward`.

        Raises:
            UnsupportedError: With a state.
            ShapeError: If an order needs an image and the tokens are none.
        """
        self.check_stateless(state)
        span = span or plain_span(x)
        values, z = self.in_proj(x).chunk(2, dim=-1)
        resets = span.resets()
        if self._conv_once:
            values = self._convolved(values, resets, "", False)
        if self._is_pair and resets is None and self._one_call_refusal(z) is None:
            return layer_scaled(self.out_proj(self._in_one_call(values, z)), self.gamma)
        tensors = (values, *self._dt_b_c(values)) if self._proj_once else (values,)
        if self._is_pair and not (x.device.type == "cpu" and runs_natively(("causal_conv1d", "selective_scan"))):
            return layer_scaled(self.out_proj(self._there_and_back(tensors, z, resets)), self.gamma)

        def scan(direction: Direction, *laid_out: Tensor) -> Tensor:
            return self._scanned(laid_out, resets, direction)

        y = sum_over_directions(self.directions, tensors, span, scan)
        y = y if self._scale == 1.0 else y * self._scale
        return layer_scaled(self.out_proj(gated_activation(y, z, self.spec.gate_activation)), self.gamma)

    def _one_call_refusal(self, z: Tensor) -> str | None:
        projections = [getattr(self, f"dt_proj{direction.proj}") for direction in self.directions]
        if not all(runs_as_written(one, DtProjection) or runs_as_written(one, BackwardDtProjection)
                   for one in projections):  # fmt: skip
            return "the map from the dt bottleneck was replaced"
        parameters = [projection.bias for projection in projections]
        for direction in self.directions:
            parameters += [getattr(self, f"A{direction.A}_log"), getattr(self, f"D{direction.D}")]
        return two_way_refusal(z, [projection.weight for projection in projections], parameters)

    def _in_one_call(self, values: Float[Tensor, "B T C"], z: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Returns the gated sum of Vim's two directions; for calls that `_one_call_refusal` lets through."""
        scans: list[ScanDirection] = []
        for direction in self.directions:
            u = values if self._conv_once else self._convolved(values, None, direction.conv, direction.reverse)
            if not (scans and self._proj_once):
                dt, B, C = self._low_dt_b_c(u, direction.proj)
            dt_proj: DtProjection = getattr(self, f"dt_proj{direction.proj}")
            A_log, D = getattr(self, f"A{direction.A}_log"), getattr(self, f"D{direction.D}")
            scans.append(ScanDirection(u, dt, dt_proj.weight, dt_proj.bias, A_log, B, C, D))
        there, back = scans
        return selective_scan_two_way(there, back, z, self.spec.gate_activation, self._scale)

    def _there_and_back(self, tensors: tuple[Tensor, ...], z: Tensor, resets: Tensor | None) -> Float[Tensor, "B T C"]:
        """Returns the gated sum of both directions where kernels read forwards only.

        What the second one reads is flipped. Its output is not: the gate's kernel takes it as it is.
        """
        first, second = self.directions
        there = self._scanned(tensors, resets, first)
        flipped = tuple(tensor.flip(1) for tensor in tensors)
        back = self._scanned(flipped, flipped_resets(resets), second._replace(reverse=False))
        return gated_activation_two_way(there, back, z, self.spec.gate_activation, self._scale)

    def _scanned(self, tensors: tuple[Tensor, ...], resets: Tensor | None, direction: Direction) -> Tensor:
        """Returns one direction's output (B, T, C), in the order of its inputs.

        Args:
            tensors: The values (B, T, C), convolved if that is shared; behind them dt, B and C if these are too.
            resets: Where sequences begin.
            direction: Which parameters to take, and whether to begin at the end.
        """
        values, *projected = tensors
        if not self._conv_once:
            values = self._convolved(values, resets, direction.conv, direction.reverse)
        dt, B, C = projected or self._dt_b_c(values, direction.proj)
        y, _ = selective_scan(
            values,
            dt,
            -upcast(getattr(self, f"A{direction.A}_log")).exp(),
            B[:, :, None],
            C[:, :, None],
            getattr(self, f"D{direction.D}"),
            dt_bias=getattr(self, f"dt_proj{direction.proj}").bias,
            resets=resets,
            reverse=direction.reverse,
        )
        return y

    def _convolved(self, values: Tensor, resets: Tensor | None, suffix: str, reverse: bool) -> Tensor:
        conv: DepthwiseConv1d = getattr(self, f"conv1d{suffix}")
        activation = self.spec.conv_activation
        return causal_conv1d(values, conv.taps, conv.bias, activation, resets=resets, reverse=reverse)[0]
