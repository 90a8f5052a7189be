"""Costs as bars: the parameters of a layer, and its FLOPs per token."""

from collections.abc import Sequence

from hybridgen.costs import ModelCost
from hybridgen.costs.results import PartCost, summed
from hybridgen.drawing.figure import Mark, Rect, Text
from hybridgen.drawing.layer_marks import LayerLook
from hybridgen.drawing.words import short

BAR = 78.0
COLUMN = 148.0  # a bar, its number, and space
_THICKNESS = 12.0


class CostBars:
    """Draws the bars of one model, all on the same two scales.

    Attributes:
        tokens: Tokens that the FLOPs are divided by.
        total: The cost of the whole model.
    """

    def __init__(self, cost: ModelCost, size: int) -> None:
        """Prepares them.

        Args:
            cost: What the model costs.
            size: Layers in a unit of the stack.
        """
        self.size = size
        self.tokens = cost.setting.seq_len * cost.setting.batch_size
        self.total = cost.total
        layers = cost.layers
        self.units = [summed("unit", "unit", layers[at : at + size]) for at in range(0, len(layers), size)]
        self.ends = {-1: cost.parts[0], -2: cost.parts[-1]}
        self.most = max(unit.parameters.total for unit in self.units) or 1
        self.most_flops = max(unit.prefill.total for unit in self.units) or 1

    def unit(self, places: Sequence[int]) -> PartCost:
        """The cost of one unit of a row."""
        return self.units[places[0]]

    def flops(self, part: PartCost) -> float:
        """FLOPs per token."""
        return part.prefill.total / self.tokens

    def headings(self, x: float, y: float) -> list[Mark]:
        """What stands above the bars."""
        of = "per layer" if self.size == 1 else "per pair of layers"
        return [
            Text(x, y, "Parameters", 11, "ink", bold=True),
            Text(x, y + 14, of, 10, "muted"),
            Text(x + COLUMN, y, "FLOPs / token", 11, "ink", bold=True),
            Text(x + COLUMN, y + 14, f"reading {self.tokens:,} tokens", 10, "muted"),
        ]

    def numbers(self, index: int, x: float, y: float) -> list[Mark]:
        """The costs of the embedding (-1) or the head (-2), without bars: they are of another size."""
        part = self.ends[index]
        texts = [short(part.parameters.total), short(self.flops(part), "G")]
        return [
            Text(x + COLUMN * column, y + 4, text, 10.5, "muted") for column, text in enumerate(texts) if text != "0"
        ]

    def draw(self, unit: LayerLook, places: Sequence[int], x: float, y: float) -> list[Mark]:
        """The bars of a row, in the middle at y, with numbers."""
        part = self.unit(places)
        marks: list[Mark] = []
        ends = self._segments(marks, part, unit, x, y, BAR, _THICKNESS, COLUMN)
        for end, text in zip(ends, (short(part.parameters.total), short(self.flops(part), "G")), strict=True):
            marks.append(Text(end + 6, y + 4, text, 10.5, "ink"))
        return marks

    def draw_small(self, unit: LayerLook, places: Sequence[int], x: float, y: float, width: float) -> list[Mark]:
        """The bars of a row without numbers, one beside the other."""
        marks: list[Mark] = []
        self._segments(marks, self.unit(places), unit, x, y, width, 8.0, width + 10)
        return marks

    def _segments(
        self,
        marks: list[Mark],
        part: PartCost,
        unit: LayerLook,
        x: float,
        y: float,
        width: float,
        thickness: float,
        step: float,
    ) -> tuple[float, float]:
        """Draws both bars in their segments; returns where they end."""
        parameters, flops = part.parameters, part.prefill
        rows = (
            ((unit.kind, parameters.total - parameters.mlp), ("rest", parameters.mlp), self.most),
            ((unit.kind, flops.total - flops.linear), ("rest", flops.linear), self.most_flops),
        )
        ends = []
        for column, (first, second, most) in enumerate(rows):
            at = x + column * step
            for colour, amount in (first, second):
                length = width * amount / most
                if length >= 0.05:
                    marks.append(Rect(at, y - thickness / 2, length, thickness, colour))
                at += length
            ends.append(at)
        return ends[0], ends[1]

    def captions(self) -> list[str]:
        """What the colours of the bars mean."""
        has_mlp = any(unit.parameters.mlp for unit in self.units)
        return [
            *(["Parameters: in colour the mixer and the norms, in grey the MLP."] if has_mlp else []),
            "FLOPs: in colour scores, scans and convolutions, in grey products with weights.",
        ]
