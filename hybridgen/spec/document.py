"""What a user may write: the grammar of a document, both forms of the stack and every accepted spelling.

The JSON schema is made from these classes, and they hold the valid keys of every place. What a document means is worked
out in `resolve.py`.
"""

from typing import Annotated, Any, Literal, Union, get_args

from pydantic import ConfigDict, Field, WithJsonSchema, create_model
from pydantic.fields import FieldInfo

from hybridgen.spec.activations import Activation
from hybridgen.spec.base import NonNegativeInt, PositiveFloat, PositiveInt, Spec
from hybridgen.spec.ends import HeadSpec, InputSpec
from hybridgen.spec.mixers import AttentionSpec, MixerSpec, SsmSpec
from hybridgen.spec.parts import LayerCount, MlpSpec, Name, ResidualAttnSpec, StackSettings

UPSTREAM_KINDS = {"Mamba1": "mamba1", "Mamba2": "mamba2"}
"""The values of `layer` in mamba-ssm's `ssm_cfg`, and our names for them."""

MLP_ALIASES = {"hidden_features": "d_intermediate", "activation": "gate_activation"}
"""Other spellings of the fields of an MLP."""

ATTENTION_ALIASES = {"sim_head": "selection_head"}
"""Other spellings of the fields of an attention mixer."""

SECTION_ALIASES = {"ssm_cfg": "ssm", "attn_cfg": "attn"}
"""mamba-ssm's and Zonos' names for the sections of the short form."""

NORM_ALIASES = {"rms_norm": "type", "norm_epsilon": "eps"}
"""mamba-ssm's and Zonos' spellings of the fields of `norm`."""

_SLICE = r"^\s*(-?[0-9]+)?\s*:\s*(-?[0-9]+)?\s*(:\s*(-?[0-9]+)?\s*)?$"
LayerIndex = Annotated[
    list[int] | str,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
                {"enum": ["all", "none"]},
                {"type": "string", "pattern": _SLICE},
            ]
        }
    ),
]


class Grammar(Spec):
    """Base of the classes that say what may be written; pydantic builds each when it is used, most runs use none."""

    model_config = ConfigDict(defer_build=True)


class GeneratedGrammar(Grammar):
    """Base of such classes that are made from others; there is no source to search for docstrings of fields."""

    model_config = ConfigDict(use_attribute_docstrings=False)


def kinds(union: Any) -> dict[str, type[Spec]]:
    """The members of a union tagged by `type`, by their tags."""
    members = get_args(get_args(union)[0])
    return {get_args(member.model_fields["type"].annotation)[0]: member for member in members}


MIXERS = kinds(MixerSpec)
SSMS = kinds(SsmSpec)
INPUTS = kinds(InputSpec)
HEADS = kinds(HeadSpec)


def _left_out() -> None:
    """Default of a field that may be left out and then says nothing; a factory keeps it out of the JSON schema."""


def left_out() -> Any:
    """What a field is set to that may be left out and then says nothing."""
    return Field(default_factory=_left_out)


def _optional(info: FieldInfo, prefix: str = "") -> tuple[Any, Any]:
    """The definition of a field like another one, except that it may be left out and has no default of its own."""
    annotation: Any = info.annotation
    for item in info.metadata:
        annotation = Annotated[annotation, item]
    return annotation, Field(default_factory=_left_out, description=f"{prefix}{info.description}")


def _section(name: str, spec: type[Spec], purpose: str, **more: Any) -> Any:
    """A spec of which any part may be written: the rest comes from elsewhere, or the section is not used."""
    required = {key: _optional(info) for key, info in spec.model_fields.items() if info.is_required()}
    extra: dict[str, Any] = {**required, **more}
    return create_model(name, __base__=(spec, GeneratedGrammar), __doc__=purpose, **extra)


_SIM_HEAD: dict[str, Any] = {
    "sim_head": (NonNegativeInt, Field(default_factory=_left_out, description="Other name of selection_head.")),
}


def _mixer_section(kind: str, spec: type[Spec]) -> Any:
    upstream = [name for name, ours in UPSTREAM_KINDS.items() if ours == kind]
    layer = Field(default_factory=_left_out, description="Kind of the mixer as mamba-ssm spells it.")
    more: dict[str, Any] = {"layer": (Literal[upstream[0]], layer)} if upstream else {}
    if kind == "attention":
        more = _SIM_HEAD
    name = spec.__name__.replace("Spec", "Section")
    return _section(name, spec, f"Fields of a mixer of type {kind}, none of them required.", **more)


_SECTIONS = {kind: _mixer_section(kind, spec) for kind, spec in MIXERS.items()}
AttentionSection: Any = _SECTIONS["attention"]
SsmSection: Any = Union[tuple(_SECTIONS[kind] for kind in SSMS)]  # noqa: UP007
AnyMixerSection: Any = Union[tuple(_SECTIONS.values())]  # noqa: UP007
_MLP_MORE: dict[str, Any] = {
    "hidden_features": (PositiveInt, Field(default_factory=_left_out, description="Other name of d_intermediate.")),
    "activation": (Activation, Field(default_factory=_left_out, description="Other name of gate_activation.")),
}
MlpSection: Any = _section("MlpSection", MlpSpec, "Settings of an MLP, none of them required.", **_MLP_MORE)


class MlpDocument(MlpSection):  # type: ignore[misc]  # made by _section
    """The feed-forward part of a block."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["d_intermediate"]}, {"required": ["hidden_features"]}]}
    )


AttentionDocument: Any = create_model(
    "AttentionDocument", __base__=(AttentionSpec, GeneratedGrammar), __doc__=AttentionSpec.__doc__, **_SIM_HEAD
)
_SSM_SPECS: Any = Union[tuple(SSMS.values())]  # noqa: UP007


class BlockDocument(Grammar):
    """One named block: a mixer, an MLP, or a mixer followed by an MLP."""

    mixer: Annotated[_SSM_SPECS | AttentionDocument, Field(discriminator="type")] | None = None
    """What mixes tokens; null for a block that is only an MLP."""
    mlp: MlpDocument | None = None
    """The feed-forward part behind the mixer; null for none."""


class OverrideDocument(Grammar):
    """A change to some layers of the stack, merged into what they are."""

    layers: LayerIndex
    """The layers to change: a list of numbers (negative counts from the end), `all`, or a slice such as `3::4`."""
    attn: AttentionSection = left_out()
    """Fields to change in the attention layers among them."""
    ssm: SsmSection = left_out()
    """Fields to change in the SSM layers among them; another `type` replaces the mixer."""
    mixer: AnyMixerSection | None = left_out()
    """Fields to change in the mixer of each of them; another `type` replaces it, null removes it."""
    mlp: MlpSection | None = left_out()
    """Fields to change in the MLP of each of them; null removes it."""


class BackboneScalars(StackSettings):
    """The fields of a stack that are single values or the same in every document."""

    n_layer: LayerCount = left_out()
    """Number of layers; may be left out where a pattern says it."""
    d_intermediate: NonNegativeInt = 0
    """Short form: width of the MLP after each SSM mixer; 0 is no MLP."""
    attn_mlp_d_intermediate: NonNegativeInt = 0
    """Short form: width of the MLP after each attention mixer; 0 is no MLP."""
    rms_norm: bool = left_out()
    """Other way to write norm.type: true is rms, false is layer."""
    norm_epsilon: PositiveFloat = left_out()
    """Other name of norm.eps."""


class BackboneDocument(BackboneScalars, Grammar):
    """A stack of layers.

    Short form: n_layer, attn_layer_idx, ssm, attn, mlp and the two MLP widths. Long form: blocks and pattern.
    """

    residual_attn: ResidualAttnSpec | bool | None = None  # type: ignore[assignment]  # a shorthand is written, not kept
    """Residual attention: attention layers hand on their scores; true is the defaults, false or null is none."""
    attn_layer_idx: LayerIndex = "none"
    """Short form: the layers that attend, all others being SSM layers: a list of numbers, `all`, `none` or a slice."""
    ssm: SsmSection = left_out()
    """Short form: mixer of the SSM layers, of type mamba1 unless it says otherwise."""
    attn: AttentionSection = left_out()
    """Short form: mixer of the attention layers."""
    mlp: MlpSection = left_out()
    """Short form: settings of every MLP but their widths."""
    blocks: Annotated[dict[str, BlockDocument], Field(min_length=1)] = left_out()
    """Long form: the different layers of the stack, by name."""
    pattern: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1)] = left_out()
    """Long form: the order of the blocks, such as `(m*3 a)*5`, or a list of their names."""
    overrides: list[OverrideDocument] = left_out()
    """Changes to single layers, applied in order."""
    ssm_cfg: SsmSection = left_out()
    """Other name of ssm."""
    attn_cfg: AttentionSection = left_out()
    """Other name of attn."""


SHORT_FORM = ("attn_layer_idx", "ssm", "attn", "mlp", "d_intermediate", "attn_mlp_d_intermediate")
LONG_FORM = ("blocks", "pattern")
BACKBONE_SCALARS = (
    "d_model", "n_layer", "norm_placement", "residual_in_fp32", "value_residual", "bidirectional",
    "bidirectional_merge", "drop_path", "layer_dropout", "d_intermediate", "attn_mlp_d_intermediate",
)  # fmt: skip


def _prefixed(section: str, specs: tuple[type[Spec], ...]) -> dict[str, tuple[str, FieldInfo]]:
    fields = {key: info for spec in specs for key, info in spec.model_fields.items()}
    names = {f"{section}_{key}": (key, info) for key, info in fields.items()}
    return {name: found for name, found in names.items() if name not in BackboneDocument.model_fields}


_PREFIXED = {
    "attn": _prefixed("attn", (AttentionSpec,)),
    "ssm": _prefixed("ssm", tuple(SSMS.values())),
}
SUGAR = {name: (section, key) for section, found in _PREFIXED.items() for name, (key, _) in found.items()}
SUGAR |= {f"attn_{other}": ("attn", key) for other, key in ATTENTION_ALIASES.items()}
"""The prefix sugar: `attn_window` is the field `window` of the section `attn`."""
BACKBONE_KEYS = (*BackboneDocument.model_fields, *SUGAR)


class MambaSsmDocument(Grammar):
    """The flat configuration of a mamba-ssm language model, as its `config.json` holds it."""

    name: Name | None = None
    """Name of the model."""
    d_model: PositiveInt
    """Width D of the residual stream."""
    n_layer: LayerCount
    """Number of layers."""
    vocab_size: PositiveInt
    """Number of different tokens."""
    pad_vocab_size_multiple: PositiveInt = 8
    """Rows of the embedding are rounded up to a multiple of this."""
    tie_embeddings: bool = True
    """Whether the head uses the embedding table as its weight."""
    d_intermediate: NonNegativeInt = 0
    """Width of the MLP after every mixer; 0 is no MLP."""
    ssm_cfg: SsmSection = left_out()
    """Mixer of the SSM layers."""
    attn_layer_idx: LayerIndex = "none"
    """The layers that attend."""
    attn_cfg: AttentionSection = left_out()
    """Mixer of the attention layers."""
    rms_norm: bool = True
    """Whether norms are RMS norms; layer norms otherwise."""
    norm_epsilon: PositiveFloat = 1e-5
    """Added to the mean square (or variance) before the root."""
    residual_in_fp32: bool = True
    """Whether the residual stream is kept in float32."""
    fused_add_norm: bool = True
    """How mamba-ssm computes, not what: accepted and dropped."""


class NamedDocument(Spec):
    """What has a name."""

    name: Name | None = None
    """Name of the model: letters, digits, `.`, `_` and `-`."""


class ModelDocument(NamedDocument, Grammar):
    """A whole model: what it reads, the stack of layers, what it returns."""

    input: InputSpec | Literal["hidden"] = "hidden"
    """What the model reads."""
    backbone: BackboneDocument
    """The stack of layers."""
    head: HeadSpec | Literal["none", "lm", "codebooks"] = "none"
    """What the model returns."""


def whole_document() -> Any:
    """The class of a document with the prefix sugar as fields of its own, for the JSON schema."""
    fields: dict[str, Any] = {
        name: _optional(info, f"Short form: the same as {section}.{key}. ")
        for section, found in _PREFIXED.items()
        for name, (key, info) in found.items()
    }
    for other, key in ATTENTION_ALIASES.items():
        fields[f"attn_{other}"] = _optional(AttentionSpec.model_fields[key], f"Short form: the same as attn.{key}. ")
    kind = Field(default_factory=_left_out, description="Short form: the same as ssm.type. Kind of the mixer.")
    fields["ssm_type"] = (Literal[tuple(SSMS)], kind)
    backbone: Any = create_model(
        "BackboneDocument", __base__=(BackboneDocument, GeneratedGrammar), __doc__=BackboneDocument.__doc__, **fields
    )
    description = ModelDocument.model_fields["backbone"].description
    return create_model(
        "ModelDocument",
        __base__=(ModelDocument, GeneratedGrammar),
        __doc__=ModelDocument.__doc__,
        backbone=(backbone, Field(description=description)),
    )
