"""The space of a search: one dimension for each swept override, as Optuna's distributions and back as overrides."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

from hybridgen.sweep.axes import MAX_POINTS, Axis, Element
from hybridgen.sweep.intervals import Interval

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Params = dict[str, Any]
"""What Optuna chose, by the key of the axis."""
_ORDERED = 3  # values from which on an order says something
_DRAWS = 50


@dataclass(frozen=True)
class _Dimension:
    """One swept override.

    Attributes:
        names: What its values are called; empty for an interval.
        is_ordered: Whether its values are numbers in order, so that near ones are alike.
    """

    axis: Axis
    names: tuple[str, ...]
    is_ordered: bool

    @classmethod
    def of(cls, axis: Axis) -> "_Dimension":
        labels = [one.label for one in axis.elements]
        # Text and a number can have one label: `"1"` and 1.
        unique = len(set(labels)) == len(labels)
        names = labels if unique else [f"{number}: {label}" for number, label in enumerate(labels, 1)]
        return cls(axis, tuple(names), _is_ordered([one.override.value for one in axis.elements]))

    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        interval = self.axis.interval
        if interval is not None and interval.is_whole:
            return IntDistribution(int(interval.low), int(interval.high), log=interval.is_log)
        if interval is not None:
            return FloatDistribution(interval.low, interval.high, log=interval.is_log)
        return IntDistribution(0, len(self.names) - 1) if self.is_ordered else CategoricalDistribution(self.names)

    def element(self, chosen: Any) -> Element:
        if self.axis.interval is not None:
            return self.axis.chosen(chosen)
        return self.axis.elements[int(chosen) if self.is_ordered else self.names.index(chosen)]

    def choices(self) -> Sequence[Any] | None:
        """All that can be chosen; None if it is too much to be listed."""
        interval = self.axis.interval
        if interval is None:
            return range(len(self.names)) if self.is_ordered else self.names
        if not interval.is_whole or interval.high - interval.low >= MAX_POINTS:
            return None
        return range(int(interval.low), int(interval.high) + 1)

    def draw(self, generator: random.Random) -> Any:
        if self.axis.interval is not None:
            return _draw(self.axis.interval, generator)
        return generator.choice(self.choices() or ())


def _is_ordered(values: Sequence[Any]) -> bool:
    if len(values) < _ORDERED or not all(type(value) in (int, float) for value in values):
        return False
    return all(a < b for a, b in pairwise(values)) or all(a > b for a, b in pairwise(values))


def _draw(interval: Interval, generator: random.Random) -> int | float:
    low, high = interval.low, interval.high
    value = math.exp(generator.uniform(math.log(low), math.log(high))) if interval.is_log else None
    if interval.is_whole:
        return generator.randint(int(low), int(high)) if value is None else min(max(round(value), low), high)
    return min(max(generator.uniform(low, high) if value is None else value, low), high)


class Space:
    """What a search chooses from.

    Args:
        axes: Of a sweep; those with one value are the same in every point.
    """

    def __init__(self, axes: Sequence[Axis]) -> None:
        self._axes = list(axes)
        swept = [axis for axis in axes if axis.interval is not None or len(axis.elements) > 1]
        self._dimensions = {axis.key: _Dimension.of(axis) for axis in swept}
        choices = [one.choices() for one in self._dimensions.values()]
        listed = [one for one in choices if one is not None]
        size = math.prod(map(len, listed)) if len(listed) == len(choices) else math.inf
        self.size = int(size) if size <= MAX_POINTS else None
        """Combinations; None if they are too many to be listed."""

    def distributions(self) -> "dict[str, BaseDistribution]":
        """What Optuna chooses from."""
        return {key: one.distribution() for key, one in self._dimensions.items()}

    def elements(self, params: Params) -> list[Element]:
        """The overrides of a point."""
        dimensions = self._dimensions
        return [
            dimensions[axis.key].element(params[axis.key]) if axis.key in dimensions else axis.elements[0]
            for axis in self._axes
        ]

    def values(self, elements: Sequence[Element]) -> dict[str, str]:
        """What a point tries, by key."""
        pairs = zip(self._axes, elements, strict=True)
        return {axis.name: element.label for axis, element in pairs if axis.is_swept}

    def key(self, params: Params) -> tuple[Any, ...] | None:
        """The same for the same choice; None where a process ended before it had chosen."""
        return tuple(params[key] for key in self._dimensions) if self._dimensions.keys() <= params.keys() else None

    def untried(self, tried: set[tuple[Any, ...] | None], generator: random.Random) -> Params | None:
        """Draws a choice that is not among those tried, each as likely as any other; None if there is no more."""
        for _ in range(_DRAWS):
            params = {key: one.draw(generator) for key, one in self._dimensions.items()}
            if self.key(params) not in tried:
                return params
        if self.size is None:
            return params
        every = product(*(one.choices() or () for one in self._dimensions.values()))
        left = [choice for choice in every if choice not in tried]
        return dict(zip(self._dimensions, generator.choice(left), strict=True)) if left else None
