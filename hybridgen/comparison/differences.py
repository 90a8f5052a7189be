"""The changes between two specs: single values, and layers."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any, Literal

from hybridgen.comparison.alignment import OTHER_KIND, Pair, align
from hybridgen.comparison.meaning import NEUTRAL, meanings
from hybridgen.spec import LayerSpec, ModelSpec
from hybridgen.spec.base import Spec
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.parts import StackSettings

# What a layer with other values costs in an alignment, and how many of its values count besides: fewer is nearer.
_CHANGED, _MOST_COUNTED = 20, 9


@dataclass(frozen=True)
class Change:
    """One difference between two models.

    Attributes:
        part: `model` (its name), `input`, `stack`, `layers` or `head`.
        kind: `changed`; for layers also `removed` (only the first model has them) and `added` (only the second).
        field: What differs, as it would be written in a document: `norm.eps`, `attn.window`, `ssm.d_state`,
            `mlp.gated`; `mixer`, `mlp`, `input` or `head` where a whole part is of another kind; None for layers that
            only one model has.
        a: The value in the first model, plain data; the layer, where only the first has it.
        b: The value in the second.
        layers_a: Numbers of the layers in the first model.
        layers_b: Numbers of the same layers in the second.
        matters: Whether weights or results differ by it. A name, a speed, or a default written out do not.
    """

    part: Literal["model", "input", "stack", "layers", "head"]
    kind: Literal["changed", "removed", "added"]
    field: str | None
    a: Any
    b: Any
    layers_a: tuple[int, ...] = ()
    layers_b: tuple[int, ...] = ()
    matters: bool = True

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {**asdict(self), "layers_a": list(self.layers_a), "layers_b": list(self.layers_b)}


def changes_between(a: ModelSpec, b: ModelSpec) -> tuple[Change, ...]:
    """Returns what differs, in the order of a document. Names of blocks are no difference."""
    changes = [Change("model", "changed", "name", a.name, b.name, matters=False)] if a.name != b.name else []
    sides = _Sides(a, b)
    changes += [_of("input", found) for found in sides.part("input", a.input, b.input)]
    changes += [_of("stack", found) for found in _stack(sides)]
    changes += _layers(sides)
    changes += [_of("head", found) for found in sides.part("head", a.head, b.head)]
    return tuple(changes)


@dataclass(frozen=True)
class _Found:
    """A field that differs, with both values."""

    field: str
    a: Any
    b: Any
    matters: bool = True

    def key(self) -> str:
        """Tells equal differences of several layers; values may be lists."""
        return repr(self)


def _of(part: Literal["input", "stack", "head"], found: _Found) -> Change:
    return Change(part, "changed", found.field, found.a, found.b, matters=found.matters)


@dataclass(frozen=True)
class _Sides:
    """Both models, which say what fields of their parts mean."""

    a: ModelSpec
    b: ModelSpec
    _read: dict[tuple[int, int], tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)

    def part(self, name: str, a: Spec | None, b: Spec | None) -> list[_Found]:
        """The differences between two parts, under the name of both; parts of two types differ as a whole."""
        if a is None or b is None or type(a) is not type(b):
            return [] if a is b else [_Found(name, _plain(a), _plain(b))]
        (values_a, meant_a), (values_b, meant_b) = self._values(self.a, a), self._values(self.b, b)
        found = []
        for key, value in values_a.items():
            if value != values_b[key]:
                place = f"{name}.{key}"
                is_meant = key not in meant_a or meant_a[key] != meant_b[key]
                found.append(_Found(place, value, values_b[key], is_meant and place not in NEUTRAL))
        return found

    def _values(self, model: ModelSpec, part: Spec) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields of a part and what they mean, read once: stacks of many layers compare each with every other."""
        key = id(model), id(part)
        if key not in self._read:
            self._read[key] = part.model_dump(mode="json"), meanings(part, model.backbone.d_model, model.input)
        return self._read[key]

    def layer(self, a: LayerSpec, b: LayerSpec) -> list[_Found]:
        """The differences between two layers."""
        section = "attn" if isinstance(a.mixer, AttentionSpec) else "ssm"
        is_kept = a.mixer is not None and type(a.mixer) is type(b.mixer)
        return [*self.part(section if is_kept else "mixer", a.mixer, b.mixer), *self.part("mlp", a.mlp, b.mlp)]


def _plain(part: Spec | None) -> dict[str, Any] | None:
    return None if part is None else part.model_dump(mode="json")


def _stack(sides: _Sides) -> Iterator[_Found]:
    a, b = sides.a.backbone, sides.b.backbone
    for name in ("n_layer", *StackSettings.model_fields):
        one, other = getattr(a, name), getattr(b, name)
        if isinstance(one, Spec) or isinstance(other, Spec):
            yield from sides.part(name, one, other)
        elif one != other:
            yield _Found(name, one, other)


def _layers(sides: _Sides) -> list[Change]:
    """The differences between the layers, equal ones together."""
    stacks = sides.a.backbone.layers, sides.b.backbone.layers
    # Equal layers of a stack are one object, so that few have to be looked at.
    objects = {id(layer): layer for stack in stacks for layer in stack}
    numbers: dict[LayerSpec, int] = {}
    known = {key: numbers.setdefault(layer, len(numbers)) for key, layer in objects.items()}
    contents = list(numbers)

    @cache
    def found(first: int, second: int) -> list[_Found]:
        return sides.layer(contents[first], contents[second]) if first != second else []

    def distance(first: int, second: int) -> int:
        if not found(first, second):
            return 0
        if type(contents[first].mixer) is not type(contents[second].mixer):
            return OTHER_KIND
        return _CHANGED + min(len(found(first, second)), _MOST_COUNTED)

    first, second = ([known[id(layer)] for layer in stack] for stack in stacks)
    return _folded(align(first, second, distance), first, second, contents, found)


def _folded(
    pairs: list[Pair],
    first: list[int],
    second: list[int],
    contents: list[LayerSpec],
    found: Callable[[int, int], list[_Found]],
) -> list[Change]:
    groups: dict[Any, tuple[Change, list[Pair]]] = {}
    for a, b in pairs:
        if a is not None and b is not None:
            for one in found(first[a], second[b]):
                change = Change("layers", "changed", one.field, one.a, one.b, matters=one.matters)
                groups.setdefault(one.key(), (change, []))[1].append((a, b))
        elif a is not None:
            change = Change("layers", "removed", None, _plain(contents[first[a]]), None)
            groups.setdefault(("removed", first[a]), (change, []))[1].append((a, b))
        elif b is not None:
            change = Change("layers", "added", None, None, _plain(contents[second[b]]))
            groups.setdefault(("added", second[b]), (change, []))[1].append((a, b))
    return [_at(change, places) for change, places in groups.values()]


def _at(change: Change, places: list[Pair]) -> Change:
    layers_a = tuple(a for a, _ in places if a is not None)
    layers_b = tuple(b for _, b in places if b is not None)
    return replace(change, layers_a=layers_a, layers_b=layers_b)
