"""The JSON Schema of a document, for editors: completion, descriptions and warnings while typing."""

from typing import Any

from pydantic.json_schema import models_json_schema

from hybridgen.spec.document import (
    LONG_FORM,
    SECTION_ALIASES,
    SHORT_FORM,
    SSMS,
    SUGAR,
    MambaSsmDocument,
    whole_document,
)
from hybridgen.spec.report import flow
from hybridgen.spec.wording import expectation

Schema = dict[str, Any]

TITLES = {
    "ModelDocument": "Document",
    "BackboneDocument": "Backbone",
    "BlockDocument": "Block",
    "OverrideDocument": "Override",
    "AttentionDocument": "Mixer attention",
    "Mamba1Spec": "Mixer mamba1",
    "Mamba2Spec": "Mixer mamba2",
    "MlpDocument": "MLP",
    "NormSpec": "Norm",
    "InitSpec": "Init",
    "ResidualAttnSpec": "Residual attention",
    "HiddenInputSpec": "Input hidden",
    "TokensInputSpec": "Input tokens",
    "CodebooksInputSpec": "Input codebooks",
    "PatchesInputSpec": "Input patches",
    "NoHeadSpec": "Head none",
    "LmHeadSpec": "Head lm",
    "ClassifierHeadSpec": "Head classifier",
    "CodebooksHeadSpec": "Head codebooks",
    "MambaSsmDocument": "Flat mamba-ssm document",
}
"""What readers call the definitions, in editors and in the docs."""

SAME = {
    "AttentionSection": "AttentionDocument",
    "Mamba1Section": "Mamba1Spec",
    "Mamba2Section": "Mamba2Spec",
    "MlpSection": "MlpDocument",
}
"""Definitions with the fields of another one, none of them required, which have its title."""

PARTIAL = "Partial"
"""What the names of definitions without required fields begin with, which are for documents with `defaults`."""

_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
_REF = "#/$defs/"
_DEFAULT_SSM = f"{_REF}Mamba1Section"
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
    definitions = grammar()
    composed = {f"{PARTIAL}{name}": _partial(schema, definitions) for name, schema in definitions.items()}
    _split_forms(definitions)
    _assume_kind(definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hybridgen model",
        "description": "A document that hybridgen builds a model from.",
        "if": {"required": ["defaults"]},
        "then": _either(PARTIAL),
        "else": _either(""),
        "$defs": {"Reference": _REFERENCE, **definitions, **composed},
    }


def grammar(hints: bool = True) -> Schema:
    """Returns the definitions of the schema: every part of a document with its fields, by the name of its class.

    Args:
        hints: Whether the description of a field ends with its range and its default; editors show little else.
    """
    model = whole_document()
    _, found = models_json_schema([(model, "validation"), (MambaSsmDocument, "validation")])
    definitions: Schema = {name: _tidied(schema) for name, schema in found["$defs"].items()}
    for name, schema in definitions.items():
        if title := TITLES.get(SAME.get(name, name)):
            schema["title"] = title
        fields = schema.get("properties", {})
        schema["properties"] = {field: _field(rule, hints) for field, rule in fields.items()}
    for name in ("ModelDocument", "MambaSsmDocument"):
        definitions[name]["properties"]["defaults"] = _DEFAULTS
    return definitions


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
    kept = {key: rule for key, rule in schema.items() if key != "required"}
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


def _field(schema: Schema, hints: bool) -> Schema:
    """The schema of a field: described, and with `${...}` as a value that it takes."""
    about = {key: value for key, value in schema.items() if key in _ABOUT}
    about["description"] = " ".join(schema["description"].split()) + (_hint(schema) if hints else "")
    rule = {key: value for key, value in schema.items() if key not in _ABOUT}
    if "const" in rule:
        return {**about, **rule}
    options = rule["anyOf"] if rule.keys() == {"anyOf"} else [rule]
    # Of a value that fits none, editors report the first: a choice is the one that tells most.
    options = sorted(options, key=lambda option: "enum" not in option and "const" not in option)
    return {**about, "anyOf": [*options, {"$ref": "#/$defs/Reference"}]}


def _hint(schema: Schema) -> str:
    """Says which numbers and lists a field takes, and its default; editors themselves show choices and sections."""
    options = schema.get("anyOf", [schema])
    parts = []
    if any(option.get("type") in ("integer", "number", "array") and not _refers(option) for option in options):
        parts.append(f"Takes {expectation(schema)}")
    if "default" in schema and not isinstance(schema["default"], dict):
        default = schema["default"] if isinstance(schema["default"], str) else flow(schema["default"])
        parts.append(f"{'default' if parts else 'Default'} {default}")
    return f" {'; '.join(parts)}." if parts else ""


def _refers(schema: Schema) -> bool:
    return "$ref" in schema.get("items", {})


def _split_forms(definitions: Schema) -> None:
    """Lets a backbone be in short form or in long form, not both: with `blocks`, editors offer no field of the other.

    A document with `defaults` may be a change to either form, and keeps the fields of both.
    """
    both = definitions["BackboneDocument"]
    short = {*SHORT_FORM, *SECTION_ALIASES, *SUGAR}
    fields = {name: rule for name, rule in both["properties"].items() if name not in short}
    required = [*both["required"], *LONG_FORM]
    definitions["LongBackboneDocument"] = {**both, "required": required, "properties": fields}
    place = definitions["ModelDocument"]["properties"]["backbone"]["anyOf"]
    place[0] = {
        "if": {"anyOf": [{"required": [key]} for key in LONG_FORM]},
        "then": {"$ref": f"{_REF}LongBackboneDocument"},
        "else": {**place[0], "required": ["n_layer"]},
    }


def _assume_kind(definitions: Schema) -> None:
    """Gives an SSM section that names no type the fields of the default type alone, if nothing beside it names one."""
    flat = definitions["MambaSsmDocument"]["properties"]
    flat["ssm_cfg"] = _assuming(flat["ssm_cfg"])
    backbone = definitions["BackboneDocument"]
    sections = {name: backbone["properties"][name] for name in ("ssm", "ssm_cfg")}
    anything: Schema = {"type": ["object", "string"]}
    backbone["properties"] |= {name: {**rule, "anyOf": [anything]} for name, rule in sections.items()}
    backbone["if"] = {"anyOf": [{"required": ["ssm_type"]}, {"required": list(sections)}]}
    backbone["then"] = {"properties": sections}
    backbone["else"] = {"properties": {name: _assuming(rule) for name, rule in sections.items()}}


def _assuming(section: Schema) -> Schema:
    *kinds, reference = section["anyOf"]
    named = {"anyOf": [{"required": ["type"]}, {"required": ["layer"]}]}
    default = {"$ref": _DEFAULT_SSM, "properties": {"type": {"enum": list(SSMS)}}}
    return {**section, "anyOf": [{"if": named, "then": {"anyOf": kinds}, "else": default}, reference]}
