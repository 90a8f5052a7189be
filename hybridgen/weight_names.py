"""Comparing the weights that a model needs with those that are there, in words."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from hybridgen.errors import CheckpointError

Shapes = Mapping[str, Sequence[int]]

_SHOWN = 10


def check_names(needed: Shapes, given: Shapes, where: object) -> None:
    """Checks that two sets of weights have the same names and shapes.

    Args:
        needed: Shapes by name that the model has.
        given: Shapes by name that were found.
        where: What was read, for the message.

    Raises:
        CheckpointError: With every difference: missing, unexpected and wrongly shaped weights.
    """
    missing = [name for name in needed if name not in given]
    unexpected = [name for name in given if name not in needed]
    misshapen = [name for name in needed if name in given and tuple(needed[name]) != tuple(given[name])]
    if not (missing or unexpected or misshapen):
        return
    lines = [f"{where}: the weights do not fit the model of this spec"]
    lines += _group("missing", "the model needs these", (f"{name} {_shape(needed[name])}" for name in missing))
    lines += _group(
        "unexpected", "the model has no such weights",
        (f"{name} {_shape(given[name])}{_nearest(name, missing)}" for name in unexpected),
    )  # fmt: skip
    lines += _group(
        "of the wrong shape", "found against needed",
        (f"{name}: {_shape(given[name])}, the model needs {_shape(needed[name])}" for name in misshapen),
    )  # fmt: skip
    raise CheckpointError("\n".join(lines))


def check_ties(ties: Mapping[str, str], weights: Mapping[str, Tensor], where: object, fix: str) -> None:
    """Checks that tied weights are one tensor, or equal to the last bit, so that one of them can be left out.

    Args:
        ties: Alias -> owner.
        weights: All weights, both names of each tie among them, with equal shapes.
        where: What was read, for the message.
        fix: What to do, for the message.

    Raises:
        CheckpointError: If an alias has values of its own.
    """
    for alias, owner in ties.items():
        if not _is_same(weights[alias], weights[owner]):
            raise CheckpointError(f"{where}: the spec ties {alias} to {owner}, but their values differ; {fix}")


def _is_same(first: Tensor, second: Tensor) -> bool:
    if first is second or (first.is_meta and second.is_meta):
        return True
    if first.dtype != second.dtype or first.is_meta or second.is_meta:
        return False
    if (first.device, first.data_ptr(), first.stride()) == (second.device, second.data_ptr(), second.stride()):
        return True
    # As bytes, for which a NaN equals itself and -0.0 differs from 0.0.
    raw = [tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second)]
    return torch.equal(*raw)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Returns the closest known spelling of a word, if one is close."""
    return next(iter(difflib.get_close_matches(word, list(known), 1)), None)


def _group(title: str, meaning: str, entries: Iterable[str]) -> list[str]:
    listed = list(entries)
    if not listed:
        return []
    lines = [f"  {len(listed)} {title} ({meaning}):", *(f"    {entry}" for entry in listed[:_SHOWN])]
    if len(listed) > _SHOWN:
        lines.append(f"    ... and {len(listed) - _SHOWN} more")
    return lines


def _nearest(name: str, missing: Sequence[str]) -> str:
    # Matching costs time that grows with both lists, and beyond a few hundred names nobody reads the hints.
    found = nearest(name, missing) if len(missing) <= 500 else None
    return f"; closest missing name is {found}" if found else ""


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"
