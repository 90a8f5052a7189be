"""Mamba-2's mixer over several orders of its tokens: Vim's directions (arXiv 2401.09417) with SSD as the scan."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hybridgen.layers.linear import DepthwiseConv1d
from hybridgen.layers.mixers.base import MixerState, plain_span
from hybridgen.layers.mixers.directions import Direction, NonCausal, directions_of, sum_over_directions
from hybridgen.layers.mixers.mamba2 import Mamba2
from hybridgen.layers.span import Span
from hybridgen.ops.add_norm.plain import upcast
from hybridgen.ops.causal_conv1d import causal_conv1d
from hybridgen.ops.ssd import ssd_scan
from hybridgen.spec.mamba import Mamba2Spec


class ScansMamba2(NonCausal, Mamba2):
    """`out_proj(norm(sum_k ssd_k(conv_k([x B C]), dt), z))`, each scan in an order of its own.

    in_proj makes x, B, C and dt of all directions; of `proj` a direction has its own dt_bias. The norm, the gate and
    the parallel MLP come once, behind the sum.
    """

    def __init__(self, spec: Mamba2Spec, d_model: int) -> None:
        super().__init__(spec, d_model)
        self.directions = directions_of(spec)
        self._kinds: dict[str, str] = {}
        for direction in self.directions[1:]:
            self._add_parameters(direction)
        self.float32_parameters = Mamba2.float32_parameters | self._kinds.keys()
        self._conv_once = "conv" in spec.shared()

    def _add_parameters(self, direction: Direction) -> None:
        spec, conv_dim = self.spec, self.d_ssm + 2 * self.d_bc
        if direction.conv:
            conv = DepthwiseConv1d(conv_dim, spec.d_conv, spec.conv_bias, spec.conv_init)
            self.add_module(f"conv1d{direction.conv}", conv)
        own = (
            ("dt_bias", direction.proj, f"dt_bias{direction.proj}"),
            ("A_log", direction.A, f"A{direction.A}_log"),
            ("D", direction.D, f"D{direction.D}"),
        )
        for kind, suffix, name in own:
            if suffix:
                self.register_parameter(name, nn.Parameter(torch.empty(getattr(self, kind).shape)))
                self._kinds[name] = kind

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value: in every direction as in the first."""
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
        resets = span.resets()
        z0, x0, z, xbc, dt = self._parts(x)
        if self._conv_once:
            xbc = self._convolved(xbc, resets, "", False)

        def scan(direction: Direction, xbc: Tensor, dt: Tensor) -> Tensor:
            return self._scanned(xbc, dt, resets, direction)

        y = sum_over_directions(self.directions, (xbc, dt), span, scan)
        y = y / len(self.directions) if self.spec.divide_out else y
        return self._gated(y, z, x0, z0)

    def _scanned(self, xbc: Tensor, dt: Tensor, resets: Tensor | None, direction: Direction) -> Tensor:
        """Returns one direction's output (B, T, d_ssm), in the order of its inputs."""
        if not self._conv_once:
            xbc = self._convolved(xbc, resets, direction.conv, direction.reverse)
        x, B, C = self._heads(xbc)
        y, _ = ssd_scan(
            x,
            dt,
            -upcast(getattr(self, f"A{direction.A}_log")).exp(),
            B,
            C,
            self._skip(getattr(self, f"D{direction.D}")),
            getattr(self, f"dt_bias{direction.proj}"),
            dt_limit=self.spec.dt_limit,
            chunk_size=self.spec.chunk_size,
            resets=resets,
            reverse=direction.reverse,
        )
        return y.flatten(-2)

    def _convolved(self, xbc: Tensor, resets: Tensor | None, suffix: str, reverse: bool) -> Tensor:
        conv: DepthwiseConv1d = getattr(self, f"conv1d{suffix}")
        return causal_conv1d(xbc, conv.taps, conv.bias, "silu", resets=resets, reverse=reverse)[0]
