"""The words for a wrong or missing value of a field, derived from the field's JSON schema.

Deriving them keeps the rule and its words in one place: a new field, or a new bound of an old one, needs no new text.
"""

import math
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel

from hybridgen.spec.parts import NAME_PATTERN
from hybridgen.spec.report import flow, listed, shown
from hybridgen.spec.spelling import SHORT_KINDS, VALUE_TIPS, nearest

Schema = dict[str, Any]
_COUNTS = {1: "one value", 2: "two values", 3: "three values"}


@cache
def field_schema(spec: type[BaseModel], field: str) -> Schema:
    """The JSON schema of one field of a spec class."""
    schema: Schema = spec.model_json_schema()["properties"][field]
    return schema


def item_schemas(schema: Schema, length: int) -> list[Schema] | None:
    """The schema of each item of a list of that length; None if the field takes no such list."""
    for option in schema.get("anyOf", [schema]):
        fixed, each = option.get("prefixItems"), option.get("items")
        if fixed is not None and len(fixed) == length:
            return list(fixed)
        if fixed is None and each is not None and length <= option.get("maxItems", length):
            return [each] * length
    return None


def wrong_value(schema: Schema, value: object) -> tuple[str, str | None]:
    """Words a value that breaks the rule of its field.

    Returns:
        The message, with rule and value, and the suggestion, if there is something better to say than the rule.
    """
    given = repr(value) if isinstance(value, str) and _choices(schema) and len(value) <= 40 else shown(value)
    return f"must be {expectation(schema, value)}; given {given}", repair(schema, value)


def expectation(schema: Schema, value: object = None) -> str:
    """Words what a field takes, such as `an integer of at least 1 or null`.

    An upper bound is named only if the value breaks it, and so is a lower one behind an exclusive one: these are guards
    against slips, and rarely what one must know.
    """
    texts = [_one(option, value) for option in _options(schema)]
    choices = _choices(schema)
    if len(choices) > 1 and len(choices) == len(texts):
        return f"one of {', '.join(texts)}"
    if len(choices) > 1:
        texts = [f"one of {', '.join(map(_plain, choices))}", *texts[len(choices) :]]
    if "an integer" in texts and "a number" in texts:
        texts.remove("an integer")
    texts.sort(key=lambda text: ", each " in text)  # last, so that no other alternative reads as one of its items
    return listed(dict.fromkeys(texts), "or") + (_bounds(schema, value) if "anyOf" in schema else "")


def _options(schema: Schema) -> Iterator[Schema]:
    """The alternatives of a schema, choices first."""
    options = schema.get("anyOf", [schema])
    for option in options:
        yield from ({"const": choice} for choice in option.get("enum", ()))
    yield from (option for option in options if "enum" not in option)


def _choices(schema: Schema) -> list[Any]:
    return [option["const"] for option in _options(schema) if "const" in option]


def _plain(value: object) -> str:
    return value if isinstance(value, str) else flow(value)


def _one(schema: Schema, value: object) -> str:
    if "const" in schema:
        return _plain(schema["const"])
    kind = schema.get("type")
    if kind == "array" and "prefixItems" in schema:
        items = [expectation(item) for item in schema["prefixItems"]]
        inside = f"each {items[0]}" if len(set(items)) == 1 else listed(items)
        return f"a list of {_COUNTS.get(len(items), len(items))}, {inside}"
    if kind == "array" and "items" in schema:
        return _list_text(schema, value)
    if schema.get("pattern") == NAME_PATTERN:
        return "a name made of letters, digits, '.', '_' and '-', at most 200 in all,"
    names = {
        "integer": "an integer",
        "number": "a number",
        "boolean": "true or false",
        "null": "null",
        "string": "a text",
        "array": "a list",
        "object": "a mapping",
    }
    return names.get(str(kind), "a valid value") + _bounds(schema, value)


def _list_text(schema: Schema, value: object) -> str:
    """Words a list of any length; the bounds on it only where the value breaks them."""
    low, high = schema.get("minItems", 0), schema.get("maxItems", math.inf)
    count = len(value) if isinstance(value, list) else low
    many = f" of at least {low} value" if count < low else f" of at most {high} values" if count > high else ""
    choices = _choices(schema["items"])
    if choices:
        return f"a list{many} such as [{', '.join(map(_plain, choices[:2]))}]"
    return f"a list{many}, each {expectation(schema['items'])}"


def _bounds(schema: Schema, value: object) -> str:
    low, above = schema.get("minimum", schema.get("ge")), schema.get("exclusiveMinimum", schema.get("gt"))
    high, below = schema.get("maximum", schema.get("le")), schema.get("exclusiveMaximum", schema.get("lt"))
    tiny = above is not None and low is not None and _is_number(value) and above < value < low
    if low is not None and low < 0 and not (_is_number(value) and value < low):
        low = None
    text = f" above {above}" if above is not None and not tiny else f" of at least {low}" if low is not None else ""
    if high is not None and _is_number(value) and value > high:
        return f"{text} and at most {high}" if text else f" of at most {high}"
    if below is not None:
        return f"{text} and below {below}" if text else f" below {below}"
    return text


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def repair(schema: Schema, value: object) -> str | None:
    """Says what to write instead of a wrong value."""
    tips = VALUE_TIPS.get(tuple(map(_plain, _choices(schema))), {})
    if isinstance(value, str | bool) and flow(value).strip("'") in tips:
        fix: str | None = tips[flow(value).strip("'")]
    elif isinstance(value, str):
        fix = _repair_text(schema, value)
    elif value is not None and any(option.get("pattern") == NAME_PATTERN for option in _options(schema)):
        fix = f'put it in quotes: "{value}"' if re.fullmatch(NAME_PATTERN, str(value)) else None
    elif isinstance(value, bool):
        fix = "write a number" if accepts(schema, 1) else None
    elif isinstance(value, float) and value.is_integer() and accepts(schema, int(value)):
        fix = f"write {int(value)}"
    elif value in (0, 1) and accepts(schema, True):
        fix = f"write {'true' if value else 'false'}"
    elif isinstance(value, list) and len(value) == 1 and accepts(schema, value[0]):
        fix = "remove the brackets"
    else:
        fix = None
    if fix is None and "default" in schema:
        return f"leave it out for the default, {_plain(schema['default'])}"
    return fix or ("give it a value" if value is None else None)


def _repair_text(schema: Schema, text: str) -> str | None:
    parsed = _scalar(text)
    if parsed is not text and accepts(schema, parsed):
        return "remove the quotes"
    if text.strip().lower() in ("none", "null", "~", "off", "no") and accepts(schema, None):
        return "write null"
    if text.strip().lower() in ("yes", "on", "no", "off", "true", "false") and accepts(schema, True):
        return f"write {'true' if text.strip().lower() in ('yes', 'on', 'true') else 'false'}"
    if any(option.get("pattern") == NAME_PATTERN for option in _options(schema)):
        return f"write {re.sub(r'[^A-Za-z0-9._-]+', '-', text.strip())[:200] or 'a name'}"
    choices = [choice for choice in _choices(schema) if isinstance(choice, str)]
    meant = SHORT_KINDS.get(text.strip().lower())
    return meant if meant in choices else nearest(text, choices) or _repair_item(schema, text)


def _repair_item(schema: Schema, text: str) -> str | None:
    """Says how to write a text that is, or is near, an item of the list that should stand there."""
    items = [choice for each in item_schemas(schema, 1) or () for choice in _choices(each) if isinstance(choice, str)]
    near = text if text in items else nearest(text, items)
    return f"write [{near}]" if near else None


def _scalar(text: str) -> Any:
    """Reads a text as the number, truth value or null it looks like; returns the text itself if it is like none."""
    words = {"true": True, "false": False, "null": None}
    if text.strip() in words:
        return words[text.strip()]
    if len(text) > 40 or not any(char.isdigit() for char in text):
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def accepts(schema: Schema, value: object) -> bool:
    """Whether a scalar is a valid value of a field."""
    if "anyOf" in schema:
        inside = any(accepts(option, value) for option in schema["anyOf"])
    elif "const" in schema or "enum" in schema:
        inside = value in _choices(schema) and isinstance(value, str)
    elif isinstance(value, bool) or value is None:
        inside = schema.get("type") == ("null" if value is None else "boolean")
    else:
        kinds = {"integer": int, "number": int | float, "string": str}
        inside = isinstance(value, kinds.get(str(schema.get("type")), ()))
    if not inside or not _is_number(value) or not math.isfinite(value):  # type: ignore[arg-type]
        return inside and not _is_number(value)
    low, above = schema.get("minimum", schema.get("ge")), schema.get("exclusiveMinimum", schema.get("gt"))
    high, below = schema.get("maximum", schema.get("le")), schema.get("exclusiveMaximum", schema.get("lt"))
    number: Any = value
    is_enough = (low is None or number >= low) and (above is None or number > above)
    return is_enough and (high is None or number <= high) and (below is None or number < below)
