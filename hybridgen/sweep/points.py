"""The points of a sweep: every combination of its values, composed and checked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

from hybridgen.errors import Fault, HybridgenError, SpecError
from hybridgen.spec import ModelSpec
from hybridgen.sweep.axes import MAX_POINTS, Element
from hybridgen.sweep.identity import spec_id
from hybridgen.sweep.sweep_file import Sweep


@dataclass(frozen=True)
class Point:
    """One model of a sweep.

    Attributes:
        number: Its place in the product, counted from 1.
        values: What was tried, by key.
        overrides: What makes it from the document, for `hybridgen check` and others.
        spec: The model.
        width: The width that it was given to make it equal in size; None where it was not.
        merged: Numbers of further points that are the same model.
    """

    number: int
    values: dict[str, str]
    overrides: tuple[str, ...]
    spec: ModelSpec
    width: int | None = None
    merged: tuple[int, ...] = ()

    @cached_property
    def id(self) -> str:
        """The number made from the model, without its name."""
        return spec_id(self.spec)

    def text(self) -> str:
        """Says which point it is."""
        return point_text(self.number, self.values)


@dataclass(frozen=True)
class Invalid:
    """Points that are no models, all for the same reasons.

    Attributes:
        faults: The reasons.
        numbers: The points.
        values: What the first of them tries.
    """

    faults: tuple[Fault, ...]
    numbers: tuple[int, ...]
    values: dict[str, str]


@dataclass(frozen=True)
class Points:
    """What became of a sweep.

    Attributes:
        count: Combinations of values.
        valid: Those that are models, in Hydra's order: the last value changes first.
        invalid: Those that are not.
    """

    count: int
    valid: list[Point]
    invalid: list[Invalid] = field(default_factory=list)


def point_text(number: int, values: dict[str, str]) -> str:
    """Says which point it is, such as `point 3 (backbone.ssm.d_state=64)`."""
    tried = " ".join(f"{key}={value}" for key, value in values.items())
    return f"point {number} ({tried})" if tried else f"point {number}"


def compose_points(sweep: Sweep) -> Points:
    """Composes and checks all points of a sweep.

    The document is read once, and composed once for every choice of files; a point is then a copy of that tree with
    the point's overrides, and what follows is what `hybridgen check` does.

    Raises:
        HybridgenError: If there are too many points, or an interval has no end of them.
    """
    if endless := [axis.key for axis in sweep.axes if axis.interval is not None]:
        raise HybridgenError(f"{endless[0]}: interval(...) has no list of values; a search takes it: --sampler tpe")
    count = math.prod(len(axis.elements) for axis in sweep.axes)
    if count > MAX_POINTS:
        sizes = " * ".join(str(len(axis.elements)) for axis in sweep.axes if axis.is_swept)
        raise HybridgenError(f"a sweep has at most {MAX_POINTS:,} points, and this one {sizes} = {count:,}: narrow it")
    valid: list[Point] = []
    invalid: dict[tuple[tuple[object, ...], ...], Invalid] = {}
    for number, elements in enumerate(product(*(axis.elements for axis in sweep.axes)), 1):
        values = _values(sweep, elements)
        try:
            spec = sweep.document.spec([element.override for element in elements])
        except SpecError as error:
            # An unknown key is one fault, whatever values it was to take; they stand in the name of the override.
            key = tuple((fault.path, fault.line, fault.message, fault.suggestion) for fault in error.faults)
            earlier = invalid.get(key, Invalid(tuple(error.faults), (), values))
            invalid[key] = replace(earlier, numbers=(*earlier.numbers, number))
            continue
        valid.append(Point(number, values, tuple(element.override.text for element in elements), spec))
    return Points(count, valid, list(invalid.values()))


def _values(sweep: Sweep, elements: Sequence[Element]) -> dict[str, str]:
    axes = zip(sweep.axes, elements, strict=True)
    return {axis.name: element.label for axis, element in axes if axis.is_swept}


def merge_equal(points: Sequence[Point]) -> list[Point]:
    """Keeps the first of several points that are the same model; it notes the others."""
    first: dict[str, Point] = {}
    for point in points:
        if point.id in first:
            kept = first[point.id]
            first[point.id] = replace(kept, merged=(*kept.merged, point.number, *point.merged))
        else:
            first[point.id] = point
    return list(first.values())
