"""The JSON Schema of a document, for editors: completion, descriptions and warnings while typing."""

from typing import Any

from pydantic.json_schema import models_json_schema

from hybridgen.spec.document import (
    LONG_FORM,
    SECTION_ALIASES,
    SHORT_FORM,
    SUGAR,
    MambaSsmDocument,
    whole_document,
)

Schema = dict[str, Any]

PARTIAL = "Partial"
"""What the names of definitions without required fields begin with, which are for documents with `defaults`."""

_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
_REF = "#/$defs/"
_ABOUT = ("description", "default")
_REFERENCE = {
    "description": "A reference to another value of the document.",
    "type": "string",
    "pattern": r"\$\{.+\}",
}
_DEFAULTS = {
    "description": "Files that this one is built on, read before it, as in Hydra.",
    "type": "array",
    "items": {"type": ["string", "object"]},
}


def json_schema() -> Schema:
    """Returns the JSON Schema (draft 2020-12) of a document.

    It knows every spelling and the fields of both forms; the rules between fields are left to `hybridgen check`.
    """
    model = whole_document()
    _, found = models_json_schema([(model, "validation"), (MambaSsmDocument, "validation")])
    definitions: Schema = {name: _tidied(schema) for name, schema in found["$defs"].items()}
    for schema in definitions.values():
        schema["properties"] = {name: _or_reference(each) for name, each in schema.get("properties", {}).items()}
    definitions["BackboneDocument"] |= _form_rules()
    for name in ("ModelDocument", "MambaSsmDocument"):
        definitions[name]["properties"]["defaults"] = _DEFAULTS
    composed = {f"{PARTIAL}{name}": _partial(schema, definitions) for name, schema in definitions.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hybridgen model",
        "description": "A document that hybridgen builds a model from.",
        "if": {"required": ["defaults"]},
        "then": _either(PARTIAL),
        "else": _either(""),
        "$defs": {"Reference": _REFERENCE, **definitions, **composed},
    }


def _either(prefix: str) -> Schema:
    return {"anyOf": [{"$ref": f"{_REF}{prefix}{name}"} for name in ("ModelDocument", "MambaSsmDocument")]}


def _partial(schema: Any, definitions: Schema) -> Any:
    """A schema without what it requires: in a document with `defaults`, other files may hold it."""
    if isinstance(schema, list):
        return [_partial(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if str(schema.get("$ref")).removeprefix(_REF) in definitions:
        return {**schema, "$ref": schema["$ref"].replace(_REF, f"{_REF}{PARTIAL}")}
    kept = {key: rule for key, rule in schema.items() if key not in ("required", "if", "then", "else")}
    if any("required" in option for option in schema.get("anyOf", ())):
        del kept["anyOf"]
    if "oneOf" in kept:  # without its type, a part can be of several kinds
        kept = {"anyOf" if key == "oneOf" else key: rule for key, rule in kept.items()}
    if "properties" not in schema:
        return {key: _partial(rule, definitions) for key, rule in kept.items()}
    fields = {name: _partial(rule, definitions) for name, rule in schema["properties"].items()}
    return {
        **{key: _partial(rule, definitions) for key, rule in kept.items() if key != "properties"},
        "properties": fields,
    }


def _tidied(schema: Any) -> Any:
    """Removes titles made from names, and gives bounds on a choice of number types their JSON names."""
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {
        _BOUNDS.get(key, key): _tidied(value) for key, value in schema.items() if key not in ("title", "properties")
    }
    if "properties" in schema:
        tidy["properties"] = {name: _tidied(value) for name, value in schema["properties"].items()}
    return tidy


def _or_reference(schema: Schema) -> Schema:
    """Lets `${...}` stand for the value of a field."""
    if "const" in schema:
        return schema
    about = {key: value for key, value in schema.items() if key in _ABOUT}
    rule = {key: value for key, value in schema.items() if key not in _ABOUT}
    options = rule["anyOf"] if rule.keys() == {"anyOf"} else [rule]
    return {**about, "anyOf": [*options, {"$ref": "#/$defs/Reference"}]}


def _form_rules() -> Schema:
    """Short form or long form, not both."""
    short = [*SHORT_FORM, *SECTION_ALIASES, *SUGAR]
    return {
        "if": {"anyOf": [{"required": [key]} for key in LONG_FORM]},
        "then": {"required": list(LONG_FORM), "properties": dict.fromkeys(short, False)},
        "else": {"required": ["n_layer"]},
    }
