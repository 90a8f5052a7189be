"""A loss on the keys that selective layers still need, so that training makes room for a budget (arXiv 2410.02703)."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hybridgen.errors import HybridgenError
from hybridgen.ops.selective_attention.rows import keys_kept


class SelectionMemory:
    """What the selective layers need of the calls made so far.

    Attributes:
        tau: What must be hidden of a key for it to need no memory.
    """

    def __init__(self, tau: float) -> None:
        self.tau = tau
        self.thread = threading.get_ident()
        self._calls = 0
        self._selects = False
        self._tokens: list[int | Tensor] = []
        self._most: dict[tuple[int, int], Tensor] = {}

    def begin(self, shape: tuple[int, int], mask: Tensor | None, selects: bool) -> None:
        """Counts the tokens of a call of a model that selects or not; mask is true for real ones."""
        if not shape[1]:
            return
        self._selects |= selects
        self._calls += 1
        self._tokens.append(shape[0] * shape[1] if mask is None else mask.sum())

    def add(self, layer: object, q: Any, k: Any, **call: Any) -> None:
        """Notes what a layer needs at most in each row; `call` are the arguments of `selective_attention`."""
        key = (self._calls, id(layer))
        if not (q if isinstance(q, Tensor) else q[0]).shape[2]:
            return
        most = keys_kept(q, k, self.tau, **call)
        # A layer may read a sequence in pieces.
        self._most[key] = torch.maximum(self._most[key], most) if key in self._most else most

    def per_layer(self) -> Tensor:
        """Returns the share of each layer, (calls * layers): the greatest numbers of keys needed, summed over rows.

        Raises:
            HybridgenError: No selective layer has been called.
        """
        if not self._most:
            raise HybridgenError(
                "no selective layer has been called inside `with hg.selection_memory()`; it needs a model with "
                "selective: true in some layer, called inside the block"
            )
        return torch.stack([most.sum() for most in self._most.values()])

    def loss(self) -> Tensor:
        """Returns the sum over layers of max_i M_i, divided by layers and by real tokens: about 0 ... 1.

        M_i is the sum of 1 - min(F[i, j], tau) / tau over the earlier keys j of token i. The paper adds 0.1 of it to
        the cross entropy. Each call counts for itself, also if it goes on from a state; memory tokens are tokens.
        Layers that recompute their activations (torch.utils.checkpoint) would be counted twice, and are an error.

        Raises:
            HybridgenError: No selective layer, or no whole model, has been called.
        """
        if not self._most and self._selects:
            return torch.zeros(())  # layer_dropout has left out all of them
        shares = self.per_layer()
        if not self._calls:
            raise HybridgenError(
                "selection_memory counts the tokens of calls of a model, and only a part of one has been called: call "
                "the model itself"
            )
        return shares.sum() * self._calls / (len(shares) * max(sum(self._tokens), 1))


_active: list[SelectionMemory] = []


def active_memory() -> SelectionMemory | None:
    """Returns what the innermost `selection_memory` block of this thread collects, if there is one."""
    own = [memory for memory in _active if memory.thread == threading.get_ident()] if _active else []
    return own[-1] if own else None


@contextmanager
def selection_memory(tau: float = 1.0) -> Iterator[SelectionMemory]:
    """Collects what selective layers need to remember of the calls inside the block, for a loss.

    `with hg.selection_memory() as memory: logits = model(ids)`, then `cross_entropy + 0.1 * memory.loss()`. With
    calls in several micro batches the loss is that of all their tokens.

    Args:
        tau: A key needs no memory when as much is hidden of it; less counts in proportion.

    Raises:
        HybridgenError: If tau is not above zero.
    """
    if not tau > 0:
        raise HybridgenError(f"tau must be above 0; given {tau}")
    memory = SelectionMemory(tau)
    _active.append(memory)
    try:
        yield memory
    finally:
        _active.remove(memory)
