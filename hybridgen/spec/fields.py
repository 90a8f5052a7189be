"""Checks the fields of one part of a document against its spec class, and reports all that is wrong with them."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from hybridgen.spec.base import Spec
from hybridgen.spec.report import Report
from hybridgen.spec.tree import BROKEN, Node, mapping_of
from hybridgen.spec.vocabulary import unknown_key
from hybridgen.spec.wording import Schema, expectation, field_schema, item_schemas, wrong_value

S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class Checked(Generic[S]):
    """What is left of a part after its fields were checked.

    Attributes:
        spec: The part; where a field is at fault or missing it holds a stand-in. None if nothing could be made of it.
        faulty: The fields at fault or missing; a rule that reads one of them must not be reported.
    """

    spec: S | None
    faulty: frozenset[str] = frozenset()

    @property
    def sound(self) -> bool:
        """Whether the part is there and without a fault."""
        return self.spec is not None and not self.faulty


@dataclass(frozen=True)
class Part:
    """A part of a document that is about to be checked.

    Attributes:
        node: The mapping.
        what: What to call it in an error text, such as `mixer type 'mamba2'`.
        siblings: The other classes that the part could have had, by their `type`, for fields that belong to them.
        needed_by: Who needs the required fields, such as `layers 3 and 7`; None to let them be missing.
    """

    node: Node
    what: str
    siblings: tuple[str, Mapping[str, type[Spec]]] | None = None
    needed_by: str | None = ""


def check(spec: type[S], part: Part, report: Report) -> Checked[S]:
    """Checks a part against its class.

    Each faulty field is reported at the place where the user wrote it. What remains is sound enough for the rules
    between its other fields.
    """
    children = mapping_of(part.node, report)
    if children is None:
        return Checked(None)
    known = {key: child for key, child in children.items() if key in spec.model_fields}
    for key in children.keys() - known.keys():
        hint = _sibling_hint(key, spec, part.siblings)
        unknown_key(report, children[key].path, part.what, spec.model_fields, children, hint)
    broken = {key for key, child in known.items() if child.value is BROKEN}
    values = {key: child.plain() for key, child in known.items() if key not in broken}
    try:
        return Checked(spec.model_validate(values), frozenset(broken | (children.keys() - known.keys())))
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)
    faulty = {str(each["loc"][0]) for each in wrong} | broken
    for field in sorted(faulty - broken, key=list(spec.model_fields).index):
        schema = field_schema(spec, field)
        if field in known:
            items = {part for each in wrong if each["loc"][0] == field for part in each["loc"][1:]}
            _report_value(known[field], schema, items, report)
        elif part.needed_by is not None:
            _report_missing(part, field, schema, report)
    return Checked(_stand_in(spec, values, faulty), frozenset(faulty))


def _sibling_hint(key: str, spec: type[Spec], siblings: tuple[str, Mapping[str, type[Spec]]] | None) -> str | None:
    if siblings is None:
        return None
    family, classes = siblings
    owners = [kind for kind, other in classes.items() if other is not spec and key in other.model_fields]
    return f"it is a field of {family} type {' and '.join(map(repr, owners))}" if owners else None


def _report_value(node: Node, schema: Schema, items: Collection[Any], report: Report) -> None:
    inside = item_schemas(schema, len(node.value)) if isinstance(node.value, list) else None
    wrong = sorted(item for item in items if isinstance(item, int))
    if inside is not None and wrong and wrong[-1] < len(inside):
        for index in wrong:
            _report_value(node.value[index], inside[index], (), report)
        return
    message, suggestion = wrong_value(schema, node.plain())
    report.add(node.path, message, suggestion)


def _report_missing(part: Part, field: str, schema: Schema, report: Report) -> None:
    meaning = re.split(r";| \(", str(schema.get("description", "")))[0].rstrip(".")
    users = f" for {part.needed_by}" if part.needed_by else ""
    suggestion = f"add {field}: {expectation(schema)} ({meaning})"
    report.add(part.node.place_of((field,)), f"required field is missing{users}", suggestion, missing=True)


def _stand_in(spec: type[S], values: dict[str, Any], faulty: set[str]) -> S | None:
    """The spec with its faulty fields at their defaults; required ones, which are counts and widths, at 1."""
    sound = {key: value for key, value in values.items() if key not in faulty}
    required = {key: 1 for key, info in spec.model_fields.items() if info.is_required() and key not in sound}
    try:
        return spec.model_validate({**required, **sound})
    except ValidationError:
        return None


def choose(
    family: str, classes: Mapping[str, type[Spec]], node: Node, report: Report, fallback: str | None = None
) -> tuple[str, type[Spec]] | None:
    """Chooses the class of a part by its `type`.

    Args:
        family: What the part is: `mixer`, `input` or `head`.
        classes: The classes by their types.
        node: The part, a mapping.
        report: Takes the fault of a missing or unknown type.
        fallback: The type of a part that names none.

    Returns:
        Type and class, or None if the type is at fault.
    """
    kind = node.get("type")
    names = ", ".join(classes)
    if kind is None:
        if fallback is not None:
            return fallback, classes[fallback]
        suggestion = f"add type: one of {names}"
        report.add(node.place_of(("type",)), "required field is missing", suggestion, missing=True)
        return None
    if isinstance(kind.value, str) and kind.value in classes:
        return kind.value, classes[kind.value]
    schema: Schema = {"enum": list(classes)}
    message, repair = wrong_value(schema, kind.plain())
    report.add(kind.path, message.replace("must be", f"{family} type must be"), repair)
    return None


def check_loosely(node: Node, classes: Mapping[str, type[Spec]], what: str, report: Report) -> None:
    """Checks the fields of a part whose type is unknown: each must be a valid field of one of the types."""
    valid = list(dict.fromkeys(name for spec in classes.values() for name in spec.model_fields))
    children = node.value if isinstance(node.value, dict) else {}
    for key in children.keys() - set(valid):
        unknown_key(report, children[key].path, what, valid, children)
    rest = {key: child for key, child in children.items() if key in valid and key != "type"}
    for spec in classes.values():
        fields = {key: rest.pop(key) for key in list(rest) if key in spec.model_fields}
        check(spec, Part(Node(fields, node.path), what, needed_by=None), report)
