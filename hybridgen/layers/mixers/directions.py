"""What the mixers that read their tokens in several orders have in common: which parameters, and the sum."""

from collections.abc import Callable
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from hybridgen.errors import UnsupportedError
from hybridgen.layers.mixers.base import Mixer, MixerState
from hybridgen.layers.scan_orders import base_and_reverse
from hybridgen.layers.span import Span
from hybridgen.spec.scans import SCAN_PARTS, ScanningSpec

_LETTERS = "abcdefgh"


class Direction(NamedTuple):
    """One way through the tokens, and what stands behind the names of the parameters that are read with.

    Attributes:
        base: The order in which the tokens are laid out.
        reverse: Whether to begin at their end.
        conv: Suffix of `conv1d`.
        proj: Suffix of the projections that make dt, B and C; in Mamba-2 that of `dt_bias`, the rest is in_proj.
        A: Suffix of A, in `A{suffix}_log`.
        D: Suffix of `D`.
    """

    base: str
    reverse: bool
    conv: str
    proj: str
    A: str
    D: str


def directions_of(spec: ScanningSpec) -> tuple[Direction, ...]:
    """Returns the directions of a mixer; the first has the plain names, and so has every part in scan_share."""
    found, shared = [], spec.shared()
    for letter, order in zip(_LETTERS, spec.directions(), strict=False):
        base, reverse = base_and_reverse(order)
        conv, proj, A, D = ("" if letter == "a" or part in shared else f"_{letter}" for part in SCAN_PARTS)
        found.append(Direction(base, reverse, conv, proj, A, D))
    return tuple(found)


def is_there_and_back(directions: tuple[Direction, ...]) -> bool:
    """Tells whether the directions are those of Vim: all tokens as they come, and from the last to the first."""
    return [(direction.base, direction.reverse) for direction in directions] == [("row", False), ("row", True)]


def sum_over_directions(
    directions: tuple[Direction, ...], tensors: tuple[Tensor, ...], span: Span, scan: Callable[..., Tensor]
) -> Tensor:
    """Adds up what the directions give, token by token in the order of the rows.

    Args:
        directions: At least one.
        tensors: (B, T, ...) each, what is read, in the order of the rows.
        span: Where the tokens stand.
        scan: Called with a direction and the tensors in its base order; returns (B, T, C) in that order. It begins at
            the end itself where the direction is reverse, so that directions of one base share their copies.
    """
    total = None
    for base in dict.fromkeys(direction.base for direction in directions):
        laid_out = tensors if base == "row" else tuple(t.index_select(1, span.order(base)[0]) for t in tensors)
        part = None
        for direction in directions:
            if direction.base == base:
                y = scan(direction, *laid_out)
                part = y if part is None else part + y
        assert part is not None
        part = part if base == "row" else part.index_select(1, span.order(base)[1])
        total = part if total is None else total + part
    assert total is not None
    return total


class NonCausal(Mixer):
    """A mixer whose earlier outputs depend on later tokens, so that no state can stand for what came before."""

    is_causal = False

    def init_state(self, batch_size: int, max_seqlen: int, dtype: torch.dtype, device: torch.device) -> NoReturn:
        """Refuses.

        Raises:
            UnsupportedError: Always.
        """
        self._refuse()

    def check_stateless(self, state: MixerState | None) -> None:
        """Refuses a call with a state.

        Raises:
            UnsupportedError: If there is one.
        """
        if state is not None:
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise UnsupportedError(
            "a mixer that reads its tokens from their end too (bidirectional, or scan) has no decoding state: every "
            "later token changes its earlier outputs; call the model on whole sequences, without a state"
        )
