"""The check that every public operator makes of its tensors."""

from collections.abc import Mapping

from torch import Tensor

from hybridgen.errors import ShapeError


def check_shapes(op: str, expected: Mapping[str, tuple[Tensor | None, tuple[int, ...]]]) -> None:
    """Compare the shapes of a call's tensors with those the operator needs.

    Args:
        op: The operator's name, for the message.
        expected: Argument name -> (the tensor, or None if it was left out; the shape it must have).

    Raises:
        ShapeError: A tensor has another shape.
    """
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tensor.shape != shape:
            raise ShapeError(f"{op}: {name} must have shape {tuple(shape)}, but has {tuple(tensor.shape)}")


def check_groups(op: str, what: str, count: int, groups: int) -> None:
    """Check that `count` channels or heads split evenly into `groups`.

    Raises:
        ShapeError: They do not.
    """
    if groups < 1 or count % groups:
        raise ShapeError(f"{op}: B and C have {groups} groups, which must divide the {count} {what}")
