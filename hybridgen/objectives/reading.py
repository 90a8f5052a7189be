"""Objectives as they are written on a command line: `cost,latency(seq_len=512),tasks(preset=tiny,task=[parity,s3])`."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from hybridgen.errors import HybridgenError
from hybridgen.objectives.base import Objective
from hybridgen.objectives.kinds import KINDS
from hybridgen.objectives.python_function import PythonObjective
from hybridgen.spec.spelling import nearest

_CALL = re.compile(r"([A-Za-z_]\w*)(?:\((.*)\))?", re.DOTALL)
_PYTHON = "python:"
_RULES = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list, as [a,b]",
    "tuple_type": "must be a list, as [a,b]",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be {le} or less",
    "literal_error": "must be {expected}",
    "missing": "must be given",
}
"""Our words for pydantic's errors."""


def parse_objectives(texts: Sequence[str]) -> list[Objective]:
    """Reads objectives; each text holds one or several, with commas between them.

    Raises:
        HybridgenError: If one is unknown, has a setting it does not take, or stands there twice.
    """
    found: dict[str, Objective] = {}
    for text in texts:
        for part in _split(text, "--objective"):
            one = _objective(part.strip())
            if isinstance(one, PythonObjective):
                _check_function(one, found.values())
            if one.key in found:
                raise HybridgenError(f"--objective: {one.key} stands there twice; write it once, with all its settings")
            found[one.key] = one
    return list(found.values())


def _check_function(one: PythonObjective, others: Iterable[Objective]) -> None:
    """Refuses functions of one name in several files: their numbers are called after them."""
    for other in others:
        if isinstance(other, PythonObjective) and other.function == one.function and other.file != one.file:
            raise HybridgenError(
                f"--objective: {other.file} and {one.file} both have the function {one.function}, and their numbers "
                f"would have the same name; rename one"
            )


def _objective(text: str) -> Objective:
    values: dict[str, Any]
    if text.startswith(_PYTHON):
        kind, values = "python", {"place": text.removeprefix(_PYTHON)}
    else:
        match = _CALL.fullmatch(text)
        if match is None:
            raise HybridgenError(f"--objective: write NAME or NAME(setting=value,...); given {text!r}")
        kind, values = match[1], _settings(match[1], match[2] or "")
    if kind == "python" and "place" not in values:
        raise HybridgenError(f"--objective: write python:FILE.py:function; given {text!r}")
    if kind not in KINDS:
        near = nearest(kind, list(KINDS))
        advice = f"did you mean {near}?" if near else f"there are {', '.join(KINDS)}"
        raise HybridgenError(f"--objective: there is no {kind!r}; {advice}")
    try:
        return KINDS[kind].model_validate(values)
    except ValidationError as error:
        # A default that is made of another setting is missing only where that one is at fault.
        faults = [one for one in error.errors() if one["type"] != "default_factory_not_called"]
        raise HybridgenError("\n".join(_fault(kind, one) for one in faults)) from None


def _settings(kind: str, text: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in _split(text, f"--objective: {kind}") if text.strip() else []:
        name, equals, value = part.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise HybridgenError(f"--objective: {kind}: settings are name=value with commas between; given {part!r}")
        if name in values:
            raise HybridgenError(f"--objective: {kind}: {name} stands there twice")
        try:
            values[name] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):  # ValueError: what looks like a date and is none
            values[name] = value
    return values


def _fault(kind: str, error: Any) -> str:
    """Words for one thing that pydantic found."""
    name = ".".join(map(str, error["loc"])) or "settings"
    fields = list(KINDS[kind].model_fields)
    if error["type"] == "extra_forbidden":
        near = nearest(name, fields)
        advice = f"did you mean {near}?" if near else f"it takes {', '.join(fields) or 'none'}"
        return f"--objective: {kind} has no setting {name!r}; {advice}"
    rule = _RULES.get(error["type"], "{error}").format_map({"error": error["msg"], **error.get("ctx", {})})
    given = "" if error["type"] == "missing" else f"; given {error['input']!r}"
    return f"--objective: {kind}: {name}: {rule}{given}"


def _split(text: str, place: str) -> list[str]:
    """Cuts at commas that stand in no brackets and no quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for index, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and not depth:
            parts.append(text[start:index])
            start = index + 1
        if depth < 0:
            break
    if depth or quote:
        raise HybridgenError(f"{place}: brackets or quotes do not match in {text!r}")
    return [*parts, text[start:]]
