"""Rotation of whole tokens by row and column, in front of every layer, as in the code of Vim (arXiv 2401.09417)."""

import torch
from jaxtyping import Float
from torch import Tensor

from hybridgen.layers.rotary import apply_rotary, rotary_frequencies
from hybridgen.layers.span import Grid

_BASE = 10000.0


def grid_table(
    grid: Grid, dim: int, unit: int, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, "1 L half"], Float[Tensor, "1 L half"]]:
    """Returns the cosines and sines of all tokens: half of the pairs of channels turn by row, half by column.

    Row r of R turns by r / R * unit times the frequencies of a width of dim / 2, columns likewise. Class tokens do not.

    Args:
        grid: How the tokens lie.
        dim: Channels, a multiple of 4.
        unit: Rows and columns that positions are scaled to.
        dtype: Of the table: float32, or float64 for models in float64.
        device: Of the table.
    """
    frequencies = rotary_frequencies(dim // 2, _BASE, device).to(dtype)

    def angles(count: int) -> Tensor:
        return (torch.arange(count, device=device).to(dtype) / count * unit)[:, None] * frequencies

    by_row = angles(grid.rows)[:, None].expand(-1, grid.columns, -1)
    by_column = angles(grid.columns)[None].expand(grid.rows, -1, -1)
    turns = torch.cat((by_row, by_column), dim=-1).flatten(0, 1)
    for place in grid.class_places:
        turns = torch.cat((turns[:place], turns.new_zeros(1, turns.shape[1]), turns[place:]))
    return turns.cos()[None], turns.sin()[None]


def turned(
    x: Float[Tensor, "B L D"], table: tuple[Float[Tensor, "1 L half"], Float[Tensor, "1 L half"]]
) -> Float[Tensor, "B L D"]:
    """Returns the tokens rotated, in pairs of neighbouring channels."""
    return apply_rotary(x[:, :, None], *table, interleaved=True)[:, :, 0]
