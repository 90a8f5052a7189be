"""The fields of other systems' configurations, and the guard that every section passes before it is read."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from hybridgen.errors import Fault, SpecError
from hybridgen.spec.base import NonNegativeInt, PositiveFloat, PositiveInt, Spec
from hybridgen.spec.parts import LayerCount
from hybridgen.spec.report import shown
from hybridgen.spec.spelling import nearest, synonym
from hybridgen.spec.wording import Schema, expectation, field_schema, wrong_value

# What is inside is checked when that section is read.
Section = dict[Any, Any]
LayerNumbers = Annotated[list[int], Field(strict=False)]


class StackFields(Spec):
    """What the configurations of mamba-ssm and Zonos have in common."""

    d_model: PositiveInt
    n_layer: LayerCount
    d_intermediate: NonNegativeInt = 0
    ssm_cfg: Section = Field(default={})
    attn_layer_idx: LayerNumbers = Field(default=[])
    attn_cfg: Section = Field(default={})
    rms_norm: bool
    residual_in_fp32: bool


class MambaSsmFields(StackFields):
    """A MambaConfig, with upstream's defaults."""

    d_model: PositiveInt = 2560
    n_layer: LayerCount = 64
    vocab_size: PositiveInt = 50277
    rms_norm: bool = True
    residual_in_fp32: bool = True
    fused_add_norm: bool = True
    pad_vocab_size_multiple: PositiveInt = 8
    tie_embeddings: bool = True


class ZonosFields(StackFields):
    """The `backbone` section of a ZonosConfig, with upstream's defaults."""

    d_model: PositiveInt = 1024
    n_layer: LayerCount = 16
    attn_mlp_d_intermediate: NonNegativeInt = 0
    rms_norm: bool = False
    residual_in_fp32: bool = False
    norm_epsilon: PositiveFloat = 1e-5


class MixerWidth(Spec):
    """The width of a mixer that stands alone; attention calls it `embed_dim`."""

    d_model: PositiveInt
    embed_dim: PositiveInt


def read_stack(given: object, kind: type[StackFields], path: str) -> dict[str, Any]:
    """Checks the fields of a stack and fills in upstream's defaults; `ssm_cfg` and `attn_cfg` stay unchecked inside.

    Raises:
        SpecError: With every fault.
    """
    fields = read_section(given, kind, kind.model_fields, path)
    refuse_negative(fields.get("attn_layer_idx", []), join(path, "attn_layer_idx"))
    defaults = {name: field.get_default() for name, field in kind.model_fields.items()}
    return {**defaults, **fields}


def read_section(given: object, kind: type[Spec], known: Collection[str], path: str) -> dict[str, Any]:
    """Checks one section of a configuration; what it needs of other sections is checked later.

    Args:
        given: The section, as it came.
        kind: Class whose fields say what is a valid value.
        known: The fields that upstream has. One that the class does not have may hold anything.
        path: Where the section stands; empty for the whole configuration.

    Returns:
        A copy, which shares nothing with the configuration.

    Raises:
        SpecError: With a fault for every unknown field, every missing one, and every value that is not valid.
    """
    section = read_mapping(given, path)
    faults = [_unknown(name, known, section, path) for name in section if name not in known]
    checked = {name: value for name, value in section.items() if name in known and name in kind.model_fields}
    try:
        kind.model_validate(checked)
    except ValidationError as error:
        for each in error.errors(include_url=False, include_context=False, include_input=False):
            name, item = str(each["loc"][0]), each["loc"][1:2]
            if name in checked or name in known:
                faults.append(_wrong(kind, checked, name, item, path))
    if faults:
        raise SpecError(dict.fromkeys(faults))
    return section


def read_mapping(given: object, path: str) -> dict[str, Any]:
    """Copies a section into plain data.

    Raises:
        SpecError: If it is no mapping.
    """
    if not isinstance(given, Mapping):
        what = "" if path else "the configuration "
        raise SpecError([Fault(None, None, None, path, f"{what}must be a mapping; given {shown(given)}", "write {}")])
    return {name: _plain(value) for name, value in given.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _unknown(name: object, known: Collection[str], section: Collection[Any], path: str) -> Fault:
    word = str(name)
    other = synonym(word)
    close = other if other in known else nearest(word, known, section)
    return Fault(None, None, None, join(path, word), "the upstream system has no such field", close)


def _wrong(kind: type[Spec], fields: Mapping[str, Any], name: str, item: tuple[Any, ...], path: str) -> Fault:
    schema, place = field_schema(kind, name), join(path, name)
    if name not in fields:
        return Fault(None, None, None, place, "required field is missing", f"add {name}: {expectation(schema)}")
    value = fields[name]
    if isinstance(value, list) and "items" in schema and item and isinstance(item[0], int):
        schema, value, place = schema["items"], value[item[0]], f"{place}[{item[0]}]"
    return wrong_fault(place, schema, value)


def wrong_fault(place: str, schema: Schema, value: object) -> Fault:
    """Words a value that breaks the rule of its field, with something to write instead."""
    if place.endswith("causal"):
        schema = {**schema, "default": False}  # the one field whose default upstream is another than ours
    message, fix = wrong_value(schema, value)
    return Fault(None, None, None, place, message, fix or f"write {expectation(schema)}")


def refuse_negative(attn_layer_idx: list[int], place: str) -> None:
    """Checks for indices that upstream compares with layer numbers and never finds, while ours count from the end.

    Raises:
        SpecError: For each negative index.
    """
    rule = "upstream numbers layers from 0, so this names no layer"
    faults = [
        Fault(None, None, None, f"{place}[{number}]", f"{rule}; given {index}", "remove it")
        for number, index in enumerate(attn_layer_idx)
        if index < 0
    ]
    if faults:
        raise SpecError(faults)


def join(path: str, name: str) -> str:
    """Writes the path of a field in a section."""
    return f"{path}.{name}" if path else name
