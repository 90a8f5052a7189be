"""What each swept field does to each number: means of its values, and the share of variance that it explains."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from hybridgen.intervals import mean_interval

_MOST_VALUES = 12  # of a field; numbers beyond that are put into ranges
_RANGES = 8


@dataclass(frozen=True)
class Level:
    """The points that share a value of a field.

    Attributes:
        label: The value, or the range of values.
        count: Points.
        mean: Of the metric.
        low: Where the 95 % interval of the mean begins, by Student's t; None for a single point.
        high: Where it ends.
    """

    label: str
    count: int
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Effect:
    """What one field does to one metric.

    Attributes:
        metric: Name of the metric.
        key: The field.
        values: What was tried.
        share: Of the variance that the field explains alone: eta squared, the sum of squares between its values over
            the whole sum. None where it cannot be said: one value, a metric that is the same everywhere, or no value
            that two points share.
        by_chance: The share to expect of a field with as many values that does nothing: (values - 1) / (points - 1).
    """

    metric: str
    key: str
    values: tuple[Level, ...]
    share: float | None
    by_chance: float | None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        return {**asdict(self), "values": [asdict(one) for one in self.values]}


Point = tuple[Mapping[str, str], Mapping[str, float | None]]
"""The values that a point tries, by key, and its numbers, by name."""


def effects(
    points: Sequence[Point], keys: Sequence[str], metrics: Mapping[str, tuple[float, float]]
) -> tuple[list[Effect], list[str]]:
    """Returns the effect of each field on each metric, and the fields that have too many values for that.

    A point counts where it has both the field and the number. In a full grid the shares of the fields add up to 1 at
    most. Where fields change together, as with correlated points, after a filter or in a search, each share also holds
    what belongs to the others.

    Args:
        points: With their values and numbers.
        keys: The fields.
        metrics: The numbers, and between what they can lie: their means can be nowhere else.
    """
    found, skipped = [], []
    for key in keys:
        having = [(values[key], numbers) for values, numbers in points if key in values]
        labels = _labels([value for value, _ in having])
        if labels is None:
            skipped.append(key)
            continue
        for metric, possible in metrics.items():
            groups: dict[str, list[float]] = {label: [] for label in dict.fromkeys(labels.values())}
            for value, numbers in having:
                number = numbers.get(metric)
                if number is not None:
                    groups[labels[value]].append(number)
            filled = {label: group for label, group in groups.items() if group}
            if filled:
                found.append(_effect(metric, key, filled, possible))
    return found, skipped


def explained(groups: Sequence[Sequence[float]]) -> float | None:
    """Returns eta squared of groups of numbers; None where it cannot be said."""
    every = [number for group in groups for number in group]
    if len(groups) < 2 or len(every) == len(groups) or min(every) == max(every):
        return None
    # Shifted and scaled: squares of large numbers would leave the range of floats, small differences their precision.
    base, scale = min(every), max(every) - min(every)
    shifted = [[(number - base) / scale for number in group] for group in groups]
    middle = fmean(number for group in shifted for number in group)
    whole = sum((number - middle) ** 2 for group in shifted for number in group)
    between = sum(len(group) * (fmean(group) - middle) ** 2 for group in shifted)
    return min(1.0, between / whole)


def _effect(metric: str, key: str, groups: Mapping[str, Sequence[float]], possible: tuple[float, float]) -> Effect:
    levels = []
    for label, group in groups.items():
        low, high = mean_interval(group, *possible) or (None, None)
        levels.append(Level(label, len(group), fmean(group), low, high))
    share = explained(list(groups.values()))
    points = sum(map(len, groups.values()))
    return Effect(metric, key, tuple(levels), share, None if share is None else (len(groups) - 1) / (points - 1))


def _labels(values: Sequence[str]) -> dict[str, str] | None:
    """The label of each value, in the order of numbers, or in which they were tried; None if there are too many."""
    distinct = list(dict.fromkeys(values))
    try:
        distinct.sort(key=float)
    except ValueError:
        return {value: value for value in distinct} if len(distinct) <= 2 * _MOST_VALUES else None
    if len(distinct) <= _MOST_VALUES:
        return {value: value for value in distinct}
    ordered = sorted(values, key=float)
    edges = [ordered[len(ordered) * number // _RANGES] for number in range(1, _RANGES)]
    ranges: dict[int, list[str]] = {}
    for value in distinct:
        ranges.setdefault(sum(float(value) >= float(edge) for edge in edges), []).append(value)
    return {value: f"{own[0]} … {own[-1]}" if len(own) > 1 else own[0] for own in ranges.values() for value in own}
