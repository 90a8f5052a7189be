"""The state space mixers of the Mamba family."""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from hybridgen.spec.activations import Activation
from hybridgen.spec.base import GREATEST, LEAST, NonNegativeFloat, PositiveFloat, PositiveInt, Problem
from hybridgen.spec.scans import ScanningSpec


def _open_upper_bound(value: object) -> object:
    """`.inf`, or a number that may be as much in float32, is stored as null, which JSON can carry too."""
    if (
        isinstance(value, list | tuple)
        and len(value) == 2
        and isinstance(value[1], int | float)
        and value[1] > GREATEST
    ):
        return (value[0], None)
    return value


DtLimit = Annotated[
    tuple[NonNegativeFloat, Annotated[float, Field(gt=0, ge=LEAST)] | None],
    Field(strict=False),
    BeforeValidator(_open_upper_bound),
]
Range = Annotated[tuple[PositiveFloat, PositiveFloat], Field(strict=False)]
Expand = Annotated[int | float, Field(gt=0, ge=LEAST, le=1024)]


def _dt_problems(dt_min: float, dt_max: float) -> Iterator[Problem]:
    if dt_min > dt_max:
        yield Problem(("dt_min",), f"dt_min must not exceed dt_max; given {dt_min} > {dt_max}", depends=("dt_max",))


def _expand_problems(expand: float, d_model: int) -> Iterator[Problem]:
    if expand * d_model != int(expand * d_model):
        yield Problem(
            ("expand",), f"expand * d_model must be a whole number; given {expand} * {d_model} = {expand * d_model:g}"
        )


class Mamba1Spec(ScanningSpec):
    """Selective state space mixer of Mamba: a diagonal state per channel with input-dependent dt, B and C.

    Choose it for weights of the first Mamba family; its scan is bound by exponentials, so Mamba-2 trains faster at
    equal state. State per sequence: d_inner * (d_state + d_conv - 1) numbers. Source: arXiv 2312.00752.
    """

    type: Literal["mamba1"]
    """Kind of the mixer."""
    d_state: PositiveInt = 16
    """State size N of every channel."""
    d_conv: PositiveInt = 4
    """Width of the causal depthwise convolution in front of the scan, in tokens."""
    expand: Expand = 2
    """Inner width as a multiple of d_model: d_inner = expand * d_model."""
    dt_rank: Literal["auto"] | PositiveInt = "auto"
    """Rank of the projection that makes dt; auto is ceil(d_model / 16)."""
    dt_min: PositiveFloat = 0.001
    """Smallest step size dt at initialisation."""
    dt_max: PositiveFloat = 0.1
    """Largest step size dt at initialisation."""
    dt_init: Literal["random", "constant"] = "random"
    """How the dt projection's weight starts: uniform in +-dt_rank^-0.5 * dt_scale, or that constant."""
    dt_scale: PositiveFloat = 1.0
    """Factor on the starting scale of the dt projection."""
    dt_init_floor: PositiveFloat = 1e-4
    """Lower clamp of dt at initialisation."""
    conv_bias: bool = True
    """Whether the convolution has a bias."""
    bias: bool = False
    """Whether in_proj and out_proj have biases."""
    conv_activation: Activation = "silu"
    """Activation after the convolution."""
    gate_activation: Activation = "silu"
    """Activation of the gate z that multiplies the scan's output."""
    bcdt_norm: Literal["none", "weightless", "learned"] = "none"
    """RMS normalisation of dt, B and C before the scan: none, without weights (FalconMamba), with weights (Jamba)."""
    backward_dt_init: Literal["upstream", "same_as_forward"] = "upstream"
    """How the step sizes of further directions with projections of their own start: around 0.7 by a zero bias, as in
    Vim (upstream), or spread from dt_min to dt_max as in the first (same_as_forward)."""

    def d_inner(self, d_model: int) -> int:
        """Inner width: channels of the convolution and of the scan."""
        return int(self.expand * d_model)

    def dt_rank_for(self, d_model: int) -> int:
        """Rank of the dt projection, `auto` worked out."""
        return math.ceil(d_model / 16) if self.dt_rank == "auto" else self.dt_rank

    def problems(self, d_model: int) -> Iterator[Problem]:
        """Yields the rules between fields that this mixer breaks in a stack of width d_model."""
        yield from _dt_problems(self.dt_min, self.dt_max)
        yield from _expand_problems(self.expand, d_model)
        yield from self.scan_problems()
        has_own = len(self.directions()) > 1 and "proj" not in self.shared()
        if self.backward_dt_init != "upstream" and not has_own:
            message = "backward_dt_init needs a further direction with projections of its own; there is none"
            suggestion = "remove it, or write bidirectional: v2"
            yield Problem(("backward_dt_init",), message, suggestion, depends=("bidirectional", "scan", "scan_share"))


class Mamba2Spec(ScanningSpec):
    """State space mixer of Mamba-2: one scalar decay per head, so that the scan becomes matrix products (SSD).

    The default choice for new hybrids. State per sequence: d_ssm * d_state + (d_ssm + 2 * ngroups * d_state) *
    (d_conv - 1) numbers. Source: arXiv 2405.21060.
    """

    type: Literal["mamba2"]
    """Kind of the mixer."""
    d_state: PositiveInt = 128
    """State size N of every head channel."""
    d_conv: PositiveInt = 4
    """Width of the causal depthwise convolution in front of the scan, in tokens."""
    conv_init: PositiveFloat | None = None
    """Convolution weights start uniform in +-conv_init; null takes PyTorch's own range, 1/sqrt(d_conv)."""
    expand: Expand = 2
    """Inner width as a multiple of d_model: d_inner = expand * d_model."""
    headdim: PositiveInt = 64
    """Channels P of one head; d_ssm must be a multiple of it."""
    ngroups: PositiveInt = 1
    """Groups G of heads that share B and C; must divide the number of heads."""
    d_ssm: PositiveInt | None = None
    """Channels that go through the scan; null is all d_inner. The others become a gated MLP beside it."""
    A_init_range: Range = (1.0, 16.0)
    """Range of the uniform distribution that -A starts from."""
    D_has_hdim: bool = False
    """Whether the skip D has one value per channel instead of one per head."""
    rmsnorm: bool = True
    """Whether an RMS norm over each group stands in front of out_proj."""
    norm_before_gate: bool = False
    """Whether that norm comes before the gate (true) or after it (false)."""
    dt_min: PositiveFloat = 0.001
    """Smallest step size dt at initialisation."""
    dt_max: PositiveFloat = 0.1
    """Largest step size dt at initialisation."""
    dt_init_floor: PositiveFloat = 1e-4
    """Lower clamp of dt at initialisation."""
    dt_limit: DtLimit = (0.0, None)
    """Range that dt is clamped to after softplus, in every path; null as upper end means no limit."""
    chunk_size: PositiveInt = 256
    """Tokens per chunk of the scan, a power of two; speed only. The CPU path uses at most 64, which is faster there."""
    conv_bias: bool = True
    """Whether the convolution has a bias."""
    bias: bool = False
    """Whether in_proj and out_proj have biases."""
    gate_activation: Activation = "silu"
    """Activation of the gate z that multiplies the scan's output."""

    def d_inner(self, d_model: int) -> int:
        """Inner width: channels of the scan plus channels of the parallel MLP."""
        return int(self.expand * d_model)

    def d_ssm_for(self, d_model: int) -> int:
        """Channels of the scan."""
        return self.d_inner(d_model) if self.d_ssm is None else self.d_ssm

    def nheads(self, d_model: int) -> int:
        """Heads of the scan."""
        return self.d_ssm_for(d_model) // self.headdim

    def problems(self, d_model: int) -> Iterator[Problem]:
        """Yields the rules between fields that this mixer breaks in a stack of width d_model."""
        yield from _dt_problems(self.dt_min, self.dt_max)
        yield from _expand_problems(self.expand, d_model)
        yield from self.scan_problems()
        d_inner, d_ssm = self.d_inner(d_model), self.d_ssm_for(d_model)
        if d_ssm > d_inner:
            yield Problem(
                ("d_ssm",),
                f"d_ssm must not exceed d_inner = expand * d_model = {d_inner}; given {d_ssm}",
                depends=("expand",),
            )
        if d_ssm % self.headdim:
            yield Problem(
                ("headdim",), f"headdim must divide d_ssm = {d_ssm}; given {self.headdim}", depends=("d_ssm", "expand")
            )
        elif (d_ssm // self.headdim) % self.ngroups:
            yield Problem(
                ("ngroups",),
                f"ngroups must divide the number of heads, d_ssm / headdim = {d_ssm // self.headdim}; "
                f"given {self.ngroups}",
                depends=("headdim", "d_ssm", "expand"),
            )
        if self.chunk_size & (self.chunk_size - 1):
            yield Problem(("chunk_size",), f"chunk_size must be a power of two; given {self.chunk_size}")
        if self.dt_limit[1] is not None and self.dt_limit[0] > self.dt_limit[1]:
            yield Problem(("dt_limit",), f"dt_limit must be [low, high] with low <= high; given {list(self.dt_limit)}")
        if self.A_init_range[0] > self.A_init_range[1]:
            yield Problem(
                ("A_init_range",), f"A_init_range must be [low, high] with low <= high; given {list(self.A_init_range)}"
            )
        if self.norm_before_gate and not self.rmsnorm:
            yield Problem(
                ("norm_before_gate",),
                "norm_before_gate: true needs rmsnorm: true, there is no norm to place",
                depends=("rmsnorm",),
            )
