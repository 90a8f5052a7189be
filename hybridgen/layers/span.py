"""Where the tokens of one call stand: which came before them, and where their sequences begin."""

from collections.abc import Hashable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hybridgen.errors import ShapeError
from hybridgen.layers.rotary import rotary_table
from hybridgen.layers.scan_orders import permutation


class Grid(NamedTuple):
    """How the tokens of a sequence lie in an image.

    Attributes:
        rows: Rows of patches; they follow each other in the sequence.
        columns: Patches in a row.
        class_places: Indices in the sequence of the tokens that are no patches, ascending.
    """

    rows: int
    columns: int
    class_places: tuple[int, ...] = ()


class Span:
    """T consecutive slots of every row of a batch, and the slot at which each token's sequence begins.

    A slot counts the tokens that a row has been given, padding included, from 0. One notion covers three cases: a plain
    batch has no `starts`; in a packed row `starts` steps up at each boundary; a padding token is a sequence of
    its own, of length one, so that nothing it holds reaches a real token.

    Attributes:
        offset: Slot of the first token of this call.
        length: Number of tokens T in this call.
        starts: (B, T) slot of the first token of each token's sequence, or None when all sequences begin at slot 0.
        begins: Whether a sequence may begin inside this call; false when all its tokens continue what came before.
        grid: How the tokens lie in an image; None if they are of none.
    """

    def __init__(
        self,
        offset: int,
        length: int,
        device: torch.device,
        starts: Int[Tensor, "B T"] | None = None,
        begins: bool = True,
        grid: Grid | None = None,
    ) -> None:
        self.offset = offset
        self.length = length
        self.device = device
        self.starts = starts
        self.begins = begins and starts is not None
        self.grid = grid
        self._shared: dict[Hashable, tuple[Tensor, Tensor]] = {}
        self._elsewhere: dict[torch.device, Span] = {}

    def to(self, device: torch.device | str | int) -> "Span":
        """Returns the span for a layer on another device; accelerate calls it where it moves a layer's arguments."""
        place = torch.device(device)
        if place == self.device:
            return self
        if place not in self._elsewhere:
            starts = None if self.starts is None else self.starts.to(place)
            self._elsewhere[place] = Span(self.offset, self.length, place, starts, self.begins, self.grid)
        return self._elsewhere[place]

    def part(self, begin: int, end: int) -> "Span":
        """Returns the span of the tokens begin ... end - 1 of this call."""
        starts = None if self.starts is None else self.starts[:, begin:end]
        return Span(self.offset + begin, end - begin, self.device, starts, self.begins)

    def reversed(self) -> "Span":
        """Returns the span of the same tokens from the last to the first; each sequence begins where it ended."""
        starts, grid, end = self.starts, self.grid, self.offset + self.length
        if starts is not None:
            first = torch.where(starts == self.slots(), self.slots(), end)
            behind = torch.nn.functional.pad(first[:, 1:], (0, 1), value=end)
            last = behind.flip(1).cummin(dim=1).values - 1
            starts = self.offset + end - 1 - last
        if grid is not None:
            places = tuple(self.length - 1 - place for place in reversed(grid.class_places))
            grid = grid._replace(class_places=places)
        return Span(self.offset, self.length, self.device, starts, self.begins, grid)

    def slots(self) -> Int[Tensor, " T"]:
        """Returns the slots of this call's tokens."""
        return torch.arange(self.offset, self.offset + self.length, device=self.device)

    def positions(self) -> Int[Tensor, "R T"]:
        """Returns each token's position in its own sequence: one row when all rows agree, else one per batch row."""
        slots = self.slots()[None]
        return slots if self.starts is None else slots - self.starts

    def resets(self) -> Bool[Tensor, "B T"] | None:
        """Returns where a token begins a new sequence, or None when no token after slot 0 does."""
        return self.starts == self.slots() if self.begins and self.starts is not None else None

    def rotary(self, dim: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Returns the rotary table for this call's positions, made once for all layers that share its settings."""
        key = (dim, base, dtype)
        if key not in self._shared:
            self._shared[key] = rotary_table(self.positions(), dim, base, dtype)
        return self._shared[key]

    def order(self, base: str) -> tuple[Int[Tensor, " T"], Int[Tensor, " T"]]:
        """Returns the permutation of an order of patches and its inverse, made once for all layers that read in it.

        Args:
            base: Any order but `row`, without `_reverse`; see `layers.scan_orders`.

        Raises:
            ShapeError: The tokens are of no image, not of this one alone, or not all of it.
        """
        if self.grid is None:
            raise ShapeError(
                f"scan order {base} needs the tokens of an image, and these are of none; give the model "
                f"input: {{type: patches}}, or take the orders row and row_reverse"
            )
        if self.starts is not None:
            raise ShapeError(f"scan order {base} needs one image per row of the batch, without padding or packing")
        rows, columns, class_places = self.grid
        if self.length != rows * columns + len(class_places):
            raise ShapeError(
                f"scan order {base} needs a whole image, {rows} * {columns} patches and {len(class_places)} other "
                f"tokens, but was given {self.length} tokens"
            )
        key = ("order", base)
        if key not in self._shared:
            self._shared[key] = permutation(base, rows, columns, class_places, self.device)
        return self._shared[key]
