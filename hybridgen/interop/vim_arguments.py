"""The keyword arguments of Vim's `VisionMamba` and of its mixer, checked before they are read.

Upstream drops names that it does not know, and several arguments do nothing beside others. Here each of these is a
fault that says so, unless it is at upstream's default.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from hybridgen.errors import Fault, SpecError, UnsupportedError
from hybridgen.interop.upstream_fields import Section, join, read_mapping, read_section, wrong_fault
from hybridgen.spec.activations import Activation
from hybridgen.spec.base import NonNegativeInt, PositiveFloat, PositiveInt, Share, Spec
from hybridgen.spec.ends import Pair, Pixels
from hybridgen.spec.mamba import Mamba1Spec
from hybridgen.spec.parts import LayerCount

TITLE = "Vim"

_TINY, _SMALL, _BASE = ({"embed_dim": width, "final_pool_type": "mean"} for width in (192, 384, 768))
_REST = "bimambav2_final_pool_mean_abs_pos_embed_with"
FACTORIES: dict[str, dict[str, Any]] = {
    f"vim_tiny_patch16_224_{_REST}_midclstok_div2": _TINY,
    f"vim_tiny_patch16_stride8_224_{_REST}_midclstok_div2": {**_TINY, "stride": 8},
    f"vim_small_patch16_224_{_REST}_midclstok_div2": _SMALL,
    f"vim_small_patch16_stride8_224_{_REST}_midclstok_div2": {**_SMALL, "stride": 8},
    f"vim_base_patch16_224_{_REST}_middle_cls_token_div2": _BASE,
}
"""The published models: what each sets otherwise than the defaults of `VimFields`."""

# Arguments that choose a kernel, a place or starting values.
_NEUTRAL = frozenset({"device", "dtype", "fused_add_norm", "initializer_cfg", "pretrained"})
_SSM = frozenset(
    {
        "d_conv", "expand", "dt_rank", "dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "conv_bias", "bias",
        "use_fast_path",
    }
)  # fmt: skip
# Upstream passes these to the mixer beside ssm_cfg, and Python refuses an argument given twice.
_BESIDE_SSM = {
    "d_state": "d_state", "bimamba_type": "bimamba_type", "if_divide_out": "if_divide_out",
    "init_layer_scale": "init_layer_scale", "d_model": "embed_dim", "layer_idx": None, "device": None, "dtype": None,
}  # fmt: skip
_MIXER_NEUTRAL = frozenset({"layer_idx", "device", "dtype"})


def is_config(config: Mapping[str, Any]) -> bool:
    """Tells Vim's arguments from those of other systems."""
    return config.get("model") in [*FACTORIES] or bool(
        config.keys() & {"bimamba_type", "img_size", "patch_size", "if_divide_out", "if_cls_token"}
    )


class VimFields(Spec):
    """The arguments of a `VisionMamba` that are read, with upstream's defaults.

    `model` (the name of a factory), `gate_activation` and `bidirectional_merge` are no arguments of it; the last is for
    copies of upstream that halve what a pair of layers adds up.
    """

    model: str | None = None
    img_size: Pixels | Pair = 224
    patch_size: Pixels = 16
    stride: Pixels = 16
    depth: LayerCount = 24
    embed_dim: PositiveInt = 192
    d_state: PositiveInt = 16
    channels: PositiveInt = 3
    num_classes: NonNegativeInt = 1000
    ssm_cfg: Section | None = None
    drop_rate: Share = 0.0
    drop_path_rate: Share = 0.1
    drop_block_rate: float | None = None
    norm_epsilon: PositiveFloat = 1e-5
    rms_norm: bool = True
    residual_in_fp32: bool = True
    ft_seq_len: int | None = None
    pt_hw_seq_len: PositiveInt = 14
    if_bidirectional: bool = False
    final_pool_type: Literal["none", "mean", "max", "all"] = "none"
    if_abs_pos_embed: bool = True
    if_rope: bool = False
    if_rope_residual: bool = False
    flip_img_sequences_ratio: float = -1.0
    if_bimamba: bool = False
    bimamba_type: Literal["none", "v1", "v2"] = "v2"
    if_cls_token: bool = True
    if_divide_out: bool = True
    init_layer_scale: PositiveFloat | None = None
    use_double_cls_token: bool = False
    use_middle_cls_token: bool = True
    if_random_cls_token_position: bool = False
    if_random_token_rank: bool = False
    gate_activation: Activation = "silu"
    bidirectional_merge: Literal["sum", "mean"] = "sum"

    def kind(self) -> str:
        """What the mixers' second direction has of its own: `if_bimamba`, the older argument, overrides the newer."""
        return "v1" if self.if_bimamba else self.bimamba_type


class MixerFields(Spec):
    """The arguments of one `Mamba` of Vim that its other fields, those of `Mamba1Spec`, do not cover."""

    d_model: PositiveInt
    bimamba_type: Literal["none", "v1", "v2"] = "none"
    if_divide_out: bool = False
    init_layer_scale: PositiveFloat | None = None
    gate_activation: Activation = "silu"

    def kind(self) -> str:
        """What the second direction has of its own."""
        return self.bimamba_type


def read_model(upstream_config: Mapping[str, Any]) -> tuple[VimFields, dict[str, Any]]:
    """Checks and reads the arguments of a `VisionMamba`.

    Returns:
        The arguments with their defaults, and our mixer's fields that `ssm_cfg` gives.

    Raises:
        SpecError: For arguments that upstream does not have, values that an argument does not take, and arguments that
            upstream lets pass and ignores.
        UnsupportedError: For what is random in upstream's evaluation, and mixers that lose their second direction.
    """
    given = read_section(upstream_config, VimFields, VimFields.model_fields.keys() | _NEUTRAL, "")
    model = given.get("model")
    if model is not None and model not in FACTORIES:
        raise SpecError([wrong_fault("model", {"enum": [*FACTORIES]}, model)])
    read = {name: value for name, value in given.items() if name not in _NEUTRAL}
    fields = VimFields.model_validate({**FACTORIES.get(model or "", {}), **read})
    faults = [*_idle(fields), *_beside(fields)]
    if faults:
        raise SpecError(faults)
    _refuse_unsupported(fields)
    return fields, _read_ssm(fields.ssm_cfg or {}, "ssm_cfg", fields.kind())


def read_mixer(upstream_config: Mapping[str, Any]) -> tuple[MixerFields, dict[str, Any]]:
    """Checks and reads the arguments of a mixer alone; its class has defaults of its own: one direction, no division.

    Returns:
        The arguments with their defaults, and the other fields of our mixer.

    Raises:
        SpecError: For arguments that upstream does not have, and values that an argument does not take.
        UnsupportedError: For a mixer that loses its second direction.
    """
    known = MixerFields.model_fields.keys() | _SSM | {"d_state"} | _MIXER_NEUTRAL
    given = read_section(upstream_config, MixerFields, known, "")
    fields = MixerFields.model_validate({name: given[name] for name in given if name in MixerFields.model_fields})
    others = {name: given[name] for name in given if name in _SSM | {"d_state"}}
    return fields, _read_ssm(others, "", fields.kind())


def _read_ssm(given: Mapping[str, Any], path: str, kind: str) -> dict[str, Any]:
    fields = read_section(read_mapping(given, path), Mamba1Spec, _SSM | {"d_state"}, path)
    if fields.pop("use_fast_path", True) is not True and kind != "none":
        raise UnsupportedError(
            f"{join(path, 'use_fast_path')}: without its fast path Vim runs the first direction alone and leaves out "
            f"the second, whatever bimamba_type says; write bimamba_type: none if that is what was trained"
        )
    return fields


def _idle(fields: VimFields) -> Iterator[Fault]:
    """Yields the arguments that upstream ignores beside others, or runs wrongly."""
    if fields.if_cls_token and fields.final_pool_type == "max":
        rule = "with a class token upstream takes the maximum over the classes, not over tokens, and returns no logits"
        yield _fault("final_pool_type", rule, "write if_cls_token: false, or remove it")
    if fields.if_rope_residual and not fields.if_rope:
        yield _fault("if_rope_residual", "has no effect without if_rope", "write if_rope: true, or remove it")
    if fields.pt_hw_seq_len != 14 and not fields.if_rope:
        yield _fault("pt_hw_seq_len", "has no effect without if_rope", "write if_rope: true, or remove it")
    if fields.if_rope and (fields.stride != fields.patch_size or isinstance(fields.img_size, tuple)):
        rule = (
            f"upstream rotates a square of img_size // patch_size rows, so stride must be patch_size and img_size one "
            f"number; given stride {fields.stride}, patch_size {fields.patch_size}, img_size {fields.img_size}"
        )
        yield _fault("if_rope", rule, "write if_rope: false")
    if fields.drop_rate and not fields.if_abs_pos_embed:
        rule = "upstream drops embeddings only behind position embeddings, so it has no effect here"
        yield _fault("drop_rate", rule, "remove it, or write if_abs_pos_embed: true")
    for name in ("ft_seq_len", "drop_block_rate"):
        if getattr(fields, name) is not None:
            yield _fault(name, "upstream never reads it", "remove it")


def _beside(fields: VimFields) -> Iterator[Fault]:
    for name, place in _BESIDE_SSM.items():
        if name in (fields.ssm_cfg or {}):
            fix = f"write {place} beside ssm_cfg" if place else "remove it"
            yield _fault(f"ssm_cfg.{name}", "upstream gives this to its mixers itself, and fails", fix)


def _fault(place: str, message: str, suggestion: str) -> Fault:
    return Fault(None, None, None, place, message, suggestion)


def _refuse_unsupported(fields: VimFields) -> None:
    faults = []
    if fields.flip_img_sequences_ratio > 0:
        faults.append(
            f"flip_img_sequences_ratio: {fields.flip_img_sequences_ratio}: flips whole batches at random, in "
            f"evaluation too, and reads the class token where it no longer stands"
        )
    if fields.if_random_cls_token_position:
        faults.append("if_random_cls_token_position: puts the class token at random, in evaluation too")
    if fields.if_random_token_rank:
        faults.append("if_random_token_rank: shuffles the tokens at random, in evaluation too")
    if faults:
        raise UnsupportedError("\n".join((f"{TITLE} has what our models lack for a reason:", *faults)))
