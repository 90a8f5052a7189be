"""Operators in PyTorch's own operations alone, for graphs that something other than hybridgen is to run.

Plain PyTorch and the extension both reach for operators that are registered by this package, which a graph holds as one
node each. Inside `standard_operations()` every operator is made of what any PyTorch has, and has translations to ONNX.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class _Blocks(threading.local):
    """How many `with standard_operations()` the current thread is in."""

    def __init__(self) -> None:
        self.depth = 0


_blocks = _Blocks()


@contextmanager
def standard_operations() -> Iterator[None]:
    """Inside the block, in this thread, operators are made of PyTorch's own operations, whatever backend is chosen."""
    _blocks.depth += 1
    try:
        yield
    finally:
        _blocks.depth -= 1


def only_standard() -> bool:
    """Whether the caller is inside `standard_operations()`."""
    return _blocks.depth > 0


def linear_recurrence(decay: Tensor, added: Tensor) -> Tensor:
    """h_t = decay_t h_{t-1} + added_t along axis 1, from h = 0: all h_t, in ceil(log2 T) steps over the whole sequence.

    A step joins each token with what the token `reach` before it knows: (a, b) after (a', b') is (a a', a b' + b).
    Products of decays in [0, 1] cannot overflow, and one that underflows stands for a state that is forgotten.
    Source: Hillis and Steele, Data parallel algorithms, 1986; Blelloch, Prefix sums and their applications, 1990,
    section 1.4.1. T must be known, for the steps are written out.

    Args:
        decay: (B, T, ...), of a shape that broadcasts with `added`'s.
        added: (B, T, ...).
    """
    T, reach = added.shape[1], 1
    while reach < T:
        joined = added[:, reach:] + decay[:, reach:] * added[:, :-reach]
        added = torch.cat((added[:, :reach], joined), dim=1)
        if 2 * reach < T:  # the last step reads no decay
            decay = torch.cat((decay[:, :reach], decay[:, reach:] * decay[:, :-reach]), dim=1)
        reach *= 2
    return added
