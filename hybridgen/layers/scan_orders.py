"""The orders in which a mixer can read the tokens of an image, as permutations of its sequence."""

from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor

_REVERSE = "_reverse"


def base_and_reverse(order: str) -> tuple[str, bool]:
    """Splits the name of an order into the order in which it lays the tokens out, and whether it begins at their end.

    Only row, column, zigzag and zigzag_column are permutations; the others are these, read from the last token.
    """
    return order.removesuffix(_REVERSE), order.endswith(_REVERSE)


def permutation(
    base: str, rows: int, columns: int, class_places: tuple[int, ...], device: torch.device
) -> tuple[Int[Tensor, " T"], Int[Tensor, " T"]]:
    """Makes the permutation of an order, and its inverse.

    The patches change places among each other; a token that is no patch keeps its own, as the middle one of Vim must.

    Args:
        base: `column`: top to bottom, column after column. `zigzag`: row after row, every second one from the right.
            `zigzag_column`: column after column, every second one from the bottom.
        rows: Rows of patches.
        columns: Patches in a row.
        class_places: Indices in the sequence of the tokens that are no patches, ascending.
        device: Where to make it.

    Returns:
        For each place in the new order the index of its token, and for each token its place in the new order.
    """
    patches = torch.arange(rows * columns, device=device).view(rows, columns)
    match base:
        case "column":
            patches = patches.T
        case "zigzag":
            patches = _turning(patches)
        case "zigzag_column":
            patches = _turning(patches.T)
        case _:
            raise ValueError(f"{base} is no order that moves tokens")
    everywhere = torch.arange(rows * columns + len(class_places), device=device)
    places = _patch_places(everywhere, class_places)
    forward = everywhere.scatter(0, places, places[patches.flatten()])
    return forward, torch.empty_like(forward).scatter(0, forward, everywhere)


def _turning(lines: Tensor) -> Tensor:
    """Reads every second line backwards, so that each begins beside the end of the one before."""
    odd = torch.arange(lines.shape[0], device=lines.device) % 2 == 1
    return torch.where(odd[:, None], lines.flip(1), lines)


def _patch_places(everywhere: Tensor, class_places: tuple[int, ...]) -> Tensor:
    """The indices in the sequence that hold patches."""
    ends = (-1, *class_places, everywhere.shape[0])
    # Slices and not a mask: the number of places must not depend on values that a compiler cannot see.
    return torch.cat([everywhere[before + 1 : behind] for before, behind in pairwise(ends)])
