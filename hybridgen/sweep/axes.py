"""The values that a sweep takes: overrides in Hydra's grammar, each of which gives one value or several.

Hydra parses them (`a,b`, `choice`, `range`, `glob`, `sort`, `shuffle`); each value then becomes an override of its own,
which the document takes like any other, so that its faults are worded like any other's.
"""

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from hybridgen.errors import Fault
from hybridgen.spec.base import Spec
from hybridgen.spec.document import MIXERS, BackboneDocument, ModelDocument, OverrideDocument
from hybridgen.spec.overrides import Override, RefusedError, override_place, parse_override, parse_with_hydra
from hybridgen.spec.parts import MlpSpec
from hybridgen.spec.places import Place
from hybridgen.spec.wording import Schema, field_schema
from hybridgen.spec.yaml_text import fault_at
from hybridgen.sweep.intervals import Interval, parse_interval

MAX_POINTS = 20_000
"""A sweep has at most this many points."""

Options = Callable[[str], list[str] | None]
"""The files of a config group, or None if there is no such group."""


@dataclass(frozen=True)
class Element:
    """One value of an axis.

    Attributes:
        label: The value alone, as text.
        override: What gives it to the document.
    """

    label: str
    override: Override


@dataclass(frozen=True)
class Axis:
    """One override of a sweep with all its values.

    Attributes:
        key: What stands in front of `=`, with `+` or `~` where it has one.
        elements: The values; none where there is an interval.
        is_swept: Whether it was written as several values; one value alone is a plain override.
        interval: What a search chooses from, in the place of elements.
    """

    key: str
    elements: tuple[Element, ...]
    is_swept: bool
    interval: Interval | None = None

    @property
    def name(self) -> str:
        """The key without `+` and `~`, for headings."""
        return self.key.lstrip("+~")

    def chosen(self, value: float) -> Element:
        """The element for a value of the interval."""
        assert self.interval is not None
        label = self.interval.label(value)
        return Element(label, parse_override(f"{self.key}={label}", self.interval.place))


@dataclass(frozen=True)
class Written:
    """An override of a sweep as it was written.

    Attributes:
        text: `key=values`.
        place: Where, in a sweep file; None for one of a command line.
    """

    text: str
    place: Place | None = None


def parse_axes(written: Sequence[Written], options: Options, intervals: bool = False) -> tuple[list[Axis], list[Fault]]:
    """Parses the overrides of a sweep; those at fault are left out and reported.

    A later override of the same key takes the place of an earlier one, as in Hydra's own sweeper. A command line's
    replaces a sweep file's even where one of them has `+`: both would be applied, and the table show either.

    Args:
        intervals: Whether `interval(a,b)` is taken, as a search does.
    """
    axes: dict[str, Axis] = {}
    of_file: dict[str, str] = {}  # where in `axes` a sweep file's field is that no command line has replaced
    faults = []
    number = 0
    for one in written:
        number += one.place is None
        place = one.place or override_place(number, one.text)
        try:
            axis = _parse(one.text, place, number if one.place is None else None, options, intervals)
            if one.place is not None:
                of_file[axis.name] = axis.key
                axes[axis.key] = axis
            else:
                axes[of_file.pop(axis.name, axis.key)] = axis
        except RefusedError as error:
            faults.append(fault_at(place, error.path, error.message, error.suggestion))
    return list(axes.values()), faults


def _parse(text: str, place: Place, number: int | None, options: Options, intervals: bool) -> Axis:
    try:
        return _axis(text, place, number, options, intervals)
    except RefusedError as error:
        raise _nested_sweep(text) or error from None


def _axis(text: str, place: Place, number: int | None, options: Options, intervals: bool) -> Axis:
    parsed = parse_with_hydra(text)
    key = parsed.get_key_element()
    if not parsed.is_sweep_override():
        override = parse_override(text, place)
        _check_list(key, override)
        return Axis(key, (Element(text.partition("=")[2], override),), is_swept=False)
    if parsed.is_interval_sweep() and intervals:
        return _interval_axis(text, parsed, place)
    labels = _labels(text, parsed, options)
    elements = []
    for label in labels:
        element = f"{key}={label}"
        elements.append(Element(label, parse_override(element, override_place(number, element) if number else place)))
    _check_lists(parsed.key_or_group, key, elements)
    return Axis(key, tuple(replace(one, label=_unquoted(one)) for one in elements), is_swept=True)


def _interval_axis(text: str, parsed: Any, place: Place) -> Axis:
    axis = Axis(parsed.get_key_element(), (), is_swept=True, interval=parse_interval(text, parsed, place))
    assert axis.interval is not None
    _check_lists(parsed.key_or_group, axis.key, [axis.chosen(axis.interval.low)])
    return axis


def _nested_sweep(text: str) -> RefusedError | None:
    """Words for a sweep inside brackets, which Hydra refuses without saying so."""
    match = re.search(r"[\[{].*\b(choice|range|glob|interval|shuffle)\(", text)
    if match is None:
        return None
    message = f"`{match[1]}(...)` gives several values and cannot stand inside brackets"
    return RefusedError(message, "write the lists one by one: choice([0],[1],[0,1])")


class _Groups:
    """What Hydra asks for the names that a glob chooses from."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def get_group_options(self, group_name: str, *_: Any, **__: Any) -> list[str]:
        """All names of the group."""
        return self.names


def _labels(text: str, parsed: Any, options: Options) -> list[str]:
    """The values of a sweep as Hydra writes them, in its order."""
    if parsed.is_interval_sweep():
        message = "interval(...) has no list of values, and a sweep over all of them takes one"
        fix = f"write {parsed.get_key_element()}=range(start,stop,step), or choice(a,b,c)"
        raise RefusedError(message, f"{fix}; a search takes it: --sampler tpe --trials 50")
    value = parsed.value()
    is_glob = parsed.value_type.name == "GLOB_CHOICE_SWEEP"
    if is_glob:
        names = options(parsed.key_or_group)
        if names is None:
            message = f"glob(...) chooses files of a config group, and there is no folder `{parsed.key_or_group}`"
            raise RefusedError(message, "write the values: choice(a,b,c)")
        parsed.config_loader = _Groups(names)
    if parsed.is_range_sweep():
        _check_range(value)
    state = random.getstate()
    random.seed(0)  # shuffle(...) draws from this module's numbers: the order of a sweep is then the same in each run
    try:
        labels = [str(label) for label in islice(parsed.sweep_string_iterator(), MAX_POINTS + 1)]
    except OmegaConfBaseException:  # Hydra takes a sweep among the values for an object with fields
        raise RefusedError("one of the values is not plain data", "write choice(a,b,c)") from None
    finally:
        random.setstate(state)
    if len(labels) > MAX_POINTS:
        raise RefusedError(f"this gives more than {MAX_POINTS:,} values", "write fewer")
    if not labels:
        there = f"there are: {', '.join(parsed.config_loader.names) or 'none'}" if is_glob else "write at least one"
        raise RefusedError("this gives no value at all", there)
    return labels


def _check_range(value: Any) -> None:
    """A range may be too long to be listed, or to be shuffled."""
    start, stop, step = value.start, value.stop, 1 if value.step is None else value.step
    if not all(map(math.isfinite, (start, stop, step))):
        raise RefusedError("the ends and the step of a range are finite", "write range(start,stop,step)")
    if not step:
        raise RefusedError("the step of a range cannot be 0", "write range(start,stop,step)")
    if (stop - start) / step > MAX_POINTS:
        raise RefusedError(f"this gives more than {MAX_POINTS:,} values", "write a larger step")


def _unquoted(element: Element) -> str:
    """The value as YAML writes it, without the quotes that Hydra's grammar needs."""
    value = element.override.value
    return value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else element.label


def _check_list(key: str, override: Override) -> None:
    """The trap's other side: `d_state=[64,128]` is one model with a list where one value belongs."""
    kinds = _kinds(override.key.rpartition(".")[2])
    if not isinstance(override.value, list) or not kinds or kinds & {"array", "object", None}:
        return
    values = override.text.partition("=")[2].strip()[1:-1]
    raise RefusedError("the field takes one value, and this is a list", f"for a sweep write '{key}={values}'")


def _check_lists(name: str, key: str, elements: Sequence[Element]) -> None:
    """Hydra's classic trap: `attn_layer_idx=1,3` is not a list of two numbers, but two models with a number each."""
    numbers = [one.label for one in elements if type(one.override.value) is int]
    kinds = _kinds(name.rpartition(".")[2])
    if not numbers or "array" not in kinds or kinds & {"integer", "number"}:
        return
    others = [one.label for one in elements if type(one.override.value) is not int]
    joined = f"{key}={','.join([*others, '[' + ','.join(numbers) + ']'])}"
    apart = f"{key}={','.join([*others, *(f'[{number}]' for number in numbers)])}"
    word = "model" if len(elements) == 1 else "models"
    message = (
        f"the field takes a list, and this gives {len(elements)} {word} of which {len(numbers)} would get a number"
    )
    fix = f"write '{joined}' for one list of them, or '{apart}' for a list of one each"
    raise RefusedError(message, fix if len(numbers) > 1 else f"write '{apart}'")


@cache
def _kinds(field: str) -> frozenset[str | None]:
    """The JSON types of what a field takes, None among them for what has no plain type; empty for unknown fields."""
    classes: tuple[type[Spec], ...] = (ModelDocument, BackboneDocument, OverrideDocument, *MIXERS.values(), MlpSpec)
    schemas = [field_schema(spec, field) for spec in classes if field in spec.model_fields]
    return frozenset(option.get("type") for schema in schemas for option in _options(schema))


def _options(schema: Schema) -> list[Schema]:
    return [inner for option in schema["anyOf"] for inner in _options(option)] if "anyOf" in schema else [schema]
