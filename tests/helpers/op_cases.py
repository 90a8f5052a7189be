"""The sequence operators as the tests see them: each case makes arguments of any length for one operator."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hybridgen.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from hybridgen.ops.causal_conv1d.reference import causal_conv1d_reference
from hybridgen.ops.selective_scan import selective_scan, selective_state_update
from hybridgen.ops.selective_scan.reference import selective_scan_reference
from hybridgen.ops.ssd import ssd_scan, ssd_update
from hybridgen.ops.ssd.reference import ssd_scan_reference

Arguments = dict[str, Tensor]


@dataclass(frozen=True)
class OpCase:
    """One operator with one choice of its options."""

    run: Callable[..., tuple[Tensor, Tensor]]
    reference: Callable[..., tuple[Tensor, Tensor]]
    update: Callable[..., Tensor]
    shapes: dict[str, tuple[Any, ...]]
    state: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    reference_options: dict[str, Any] = field(default_factory=dict)

    def arguments(self, T: int, batch: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0) -> Arguments:
        """Random tensors, without an initial state; those that run along time have "T" in their shape."""
        generator = torch.Generator().manual_seed(seed)
        made: Arguments = {}
        for name, shape in self.shapes.items():
            full = (batch, T, *shape[1:]) if shape[0] == "T" else shape
            tensor = torch.randn(full, generator=generator, dtype=torch.float64)
            made[name] = (-tensor.abs() if name == "A" else tensor).to(dtype)
        return made

    def initial_state(self, batch: int = 2, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
        """A random state."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn((batch, *self.state), generator=generator, dtype=torch.float64).to(dtype)

    def along_time(self, arguments: Arguments, cut: Callable[[Tensor], Tensor]) -> Arguments:
        """The arguments with `cut` applied to those that run along time."""
        return {name: cut(t) if self.shapes[name][0] == "T" else t for name, t in arguments.items()}

    def __call__(self, arguments: Arguments, **more: Any) -> tuple[Tensor, Tensor]:
        """Run the operator."""
        return self.run(**arguments, **self.options, **more)

    def expected(self, arguments: Arguments, **more: Any) -> tuple[Tensor, Tensor]:
        """Run the reference, in float64."""
        wide = {name: t.double() for name, t in arguments.items()}
        more = {name: t.double() if torch.is_tensor(t) and t.is_floating_point() else t for name, t in more.items()}
        return self.reference(**wide, **self.reference_options, **more)

    def step(self, state: Tensor, arguments: Arguments, token: int) -> Tensor:
        """Run the one-token update on one token of the arguments."""
        options = {name: value for name, value in self.options.items() if name not in {"chunk_size"}}
        return self.update(state=state, **self.along_time(arguments, lambda t: t[:, token]), **options)


def random_resets(T: int, batch: int = 2, seed: int = 2) -> Tensor:
    """Sequence starts, about every tenth token."""
    return torch.rand((batch, T), generator=torch.Generator().manual_seed(seed)) < 0.1


def _conv(K: int, activation: str, bias: bool = True) -> OpCase:
    shapes: dict[str, tuple[Any, ...]] = {"x": ("T", 6), "weight": (6, K)}
    options: dict[str, Any] = {"activation": activation}
    if bias:
        shapes["bias"] = (6,)
    else:
        options["bias"] = None
    return OpCase(causal_conv1d, causal_conv1d_reference, causal_conv1d_update, shapes, (6, K - 1), options, options)


def _scan(G: int, N: int, extras: tuple[str, ...] = ("D", "z", "dt_bias"), gate: str = "silu") -> OpCase:
    shapes: dict[str, tuple[Any, ...]] = {
        "u": ("T", 6),
        "dt": ("T", 6),
        "A": (6, N),
        "B": ("T", G, N),
        "C": ("T", G, N),
    }
    shapes |= {name: {"D": (6,), "z": ("T", 6), "dt_bias": (6,)}[name] for name in extras}
    options = {"gate_activation": gate}
    return OpCase(selective_scan, selective_scan_reference, selective_state_update, shapes, (6, N), options, options)


def _ssd(
    G: int, N: int, D: tuple[int, ...] | None, chunk_size: int, dt_limit: tuple[float, float | None] = (0.0, None)
) -> OpCase:
    H, P = 4, 3
    shapes: dict[str, tuple[Any, ...]] = {
        "x": ("T", H, P),
        "dt": ("T", H),
        "A": (H,),
        "B": ("T", G, N),
        "C": ("T", G, N),
    }
    if D is not None:
        shapes |= {"D": D, "dt_bias": (H,)}
    limit = {"dt_limit": dt_limit}
    options = {**limit, "chunk_size": chunk_size}
    return OpCase(ssd_scan, ssd_scan_reference, ssd_update, shapes, (H, P, N), options, limit)


OP_CASES: dict[str, OpCase] = {
    "conv": _conv(4, "silu"),
    "conv-width-1": _conv(1, "gelu"),
    "conv-width-7-no-bias": _conv(7, "identity", bias=False),
    "scan": _scan(1, 5),
    "scan-groups": _scan(3, 4, gate="gelu_tanh"),
    "scan-group-per-channel": _scan(6, 1),
    "scan-bare": _scan(1, 1, extras=()),
    "ssd": _ssd(1, 5, (4,), 256),
    "ssd-groups": _ssd(2, 7, (4, 3), 16, dt_limit=(0.2, 1.5)),
    "ssd-group-per-head": _ssd(4, 1, (4,), 1),
    "ssd-bare": _ssd(1, 2, None, 10),
}
