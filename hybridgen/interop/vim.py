"""Vim (Vision Mamba): the keyword arguments of `VisionMamba`, or of one of its mixers alone, and their weights.

Names and layouts of weights are ours, but that Vim's have no `backbone.` in front of the stack. Its rotation tables
(`rope.freqs_cos`, `rope.freqs_sin`), which are no weights, are checked on the way in and made again on the way out.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hybridgen.interop.single_mixer import holds_one_mixer, mixer_document, mixer_from_upstream, mixer_to_upstream
from hybridgen.interop.upstream_fields import read_mapping
from hybridgen.interop.upstream_stack import is_rms, refuse, upstream_stack
from hybridgen.interop.upstream_weights import fit_weights
from hybridgen.interop.vim_arguments import FACTORIES, TITLE, MixerFields, VimFields, read_mixer, read_model
from hybridgen.interop.vim_rope import ROPE, check_rope, rope_tables
from hybridgen.spec import ModelSpec
from hybridgen.spec.ends import ClassifierHeadSpec, PatchesInputSpec
from hybridgen.spec.mamba import Mamba1Spec
from hybridgen.spec.scans import BIDIRECTIONAL_SHARES, SCANS

__all__ = [
    "FACTORIES", "PLACES", "TITLE", "from_upstream", "other_weights", "spec_document", "to_upstream",
    "upstream_config",
]  # fmt: skip

PREFIX = "backbone."
_ENDS = ("patch_embed.", "cls_token", "pos_embed", "head.", "rope.")
PLACES = {
    "input.image_size": "img_size", "input.cls_token": "use_middle_cls_token", "input.pos_embed": "if_abs_pos_embed",
    "input.rotary_grid": "pt_hw_seq_len", "input.rotary": "if_rope", "input.dropout": "drop_rate", "input": "",
    "backbone.ssm.d_state": "d_state", "backbone.ssm.bidirectional": "bimamba_type", "backbone.ssm": "ssm_cfg",
    "backbone.blocks.mixer.mixer": "", "backbone.d_model": "embed_dim", "backbone.n_layer": "depth",
    "backbone.bidirectional": "if_bidirectional", "backbone.drop_path": "drop_path_rate", "backbone": "",
    "head.pool": "final_pool_type", "head": "",
}  # fmt: skip
"""Where the parts of a document come from, narrow ones first."""

_POOLS = {"none": "last", "mean": "mean", "max": "max", "all": "all"}
# What the caller of a factory says, the rest being its own.
_OPEN = frozenset({"img_size", "num_classes", "drop_rate", "drop_path_rate"})
_SCANNING = frozenset({"bidirectional", "scan", "scan_share", "divide_out", "layer_scale", "backward_dt_init"})


def spec_document(upstream_config: Mapping[str, Any]) -> dict[str, Any]:
    """Turns the keyword arguments of a VisionMamba, or those of one of its mixers, into a document.

    Arguments with `d_model` are those of a mixer. Of a model, `model` may be the name of a published factory, which
    gives the defaults, `gate_activation` any activation that gates have here, `bidirectional_merge` what pairs of
    layers hand on. Where upstream ignores an argument at its default, it is left out: `if_divide_out` unless
    bimamba_type is v2, `final_pool_type` beside a class token.

    Raises:
        SpecError: For arguments that upstream does not have, values that an argument does not take, and arguments that
            upstream lets pass and ignores.
        UnsupportedError: For what is random in upstream's evaluation, and mixers that lose their second direction.
    """
    config = read_mapping(upstream_config, "")
    if "d_model" in config:
        mixer, others = read_mixer(config)
        return mixer_document(mixer.d_model, {**_scanning(mixer), **others})
    given, others = read_model(config)
    rotary = "none" if not given.if_rope else "residual" if given.if_rope_residual else "hidden"
    cls_token = _cls_token(given)
    return {
        "input": {
            "type": "patches",
            "image_size": given.img_size,
            "patch_size": given.patch_size,
            "stride": given.stride,
            "channels": given.channels,
            "cls_token": cls_token,
            "pos_embed": given.if_abs_pos_embed,
            "rotary": rotary,
            "rotary_grid": given.pt_hw_seq_len,
            "dropout": given.drop_rate,
        },
        "backbone": {
            "d_model": given.embed_dim,
            "n_layer": given.depth,
            "ssm": {**_scanning(given), "d_state": given.d_state, **others},
            "norm": {"type": "rms" if given.rms_norm else "layer", "eps": given.norm_epsilon},
            "residual_in_fp32": given.residual_in_fp32,
            "bidirectional": "layers" if given.if_bidirectional else "none",
            "bidirectional_merge": given.bidirectional_merge,
            "drop_path": given.drop_path_rate,
        },
        "head": {
            "type": "classifier",
            "num_classes": given.num_classes,
            "pool": _POOLS[given.final_pool_type] if cls_token == "none" else "cls",
        },
    }


def _cls_token(given: VimFields) -> str:
    if not given.if_cls_token:
        return "none"
    return "double" if given.use_double_cls_token else "middle" if given.use_middle_cls_token else "head"


def _scanning(given: VimFields | MixerFields) -> dict[str, Any]:
    kind = given.kind()
    return {
        "type": "mamba1",
        "bidirectional": kind,
        "divide_out": given.if_divide_out and kind == "v2",
        "layer_scale": given.init_layer_scale,
        "gate_activation": given.gate_activation,
    }


def upstream_config(spec: ModelSpec) -> dict[str, Any]:
    """Turns a spec into the keyword arguments of a VisionMamba, or a mixer alone into those of the mixer.

    `model` names the published factory that makes the same model, if there is one. How weights start and what pictures
    are normalised with (`input.mean`, `input.std`) are left out: upstream keeps neither with the model.

    Raises:
        UnsupportedError: With everything that upstream cannot express, such as a gate that is not SiLU.
    """
    faults: list[str] = []
    stack = upstream_stack(spec.backbone, faults, _SCANNING | {"drop_path"})
    mixer = spec.backbone.layers[0].mixer
    if not isinstance(mixer, Mamba1Spec):
        faults.append(f"layer 0: mixer.type: {mixer.type if mixer else None!r} (all its mixers are mamba1)")
    elif stack.attn_layer_idx:
        faults.append(f"layer {stack.attn_layer_idx[0]}: mixer.type: 'attention' (all its mixers are mamba1)")
    scanning = _scanning_kwargs(mixer, faults) if isinstance(mixer, Mamba1Spec) else {}
    if holds_one_mixer(spec):
        refuse(faults, TITLE)
        return {"d_model": spec.backbone.d_model, **stack.ssm_cfg, **scanning}
    if stack.d_intermediate:
        faults.append("mlp (its layers have a mixer alone)")
    if spec.backbone.norm.final_bias:
        faults.append("backbone.norm.final_bias: true")
    if spec.backbone.bidirectional_merge != "sum":
        faults.append(f"backbone.bidirectional_merge: {spec.backbone.bidirectional_merge!r}")
    ends = _ends(spec, faults)
    refuse(faults, TITLE)
    d_state = stack.ssm_cfg.pop("d_state", Mamba1Spec.model_fields["d_state"].default)
    config = {
        **ends,
        "depth": spec.backbone.n_layer,
        "embed_dim": spec.backbone.d_model,
        "d_state": d_state,
        "ssm_cfg": stack.ssm_cfg or None,
        "drop_path_rate": spec.backbone.drop_path,
        "norm_epsilon": spec.backbone.norm.eps,
        "rms_norm": is_rms(spec.backbone.norm),
        "fused_add_norm": True,
        "residual_in_fp32": spec.backbone.residual_in_fp32,
        "if_bidirectional": spec.backbone.bidirectional == "layers",
        **scanning,
    }
    name = _factory(config)
    return {"model": name, **config} if name else config


def _factory(config: Mapping[str, Any]) -> str | None:
    """Finds the factory whose model this is, up to what its caller says."""
    fixed = {name: field.default for name, field in VimFields.model_fields.items() if name in config.keys() - _OPEN}
    for name, own in FACTORIES.items():
        if all(config[key] == value for key, value in {**fixed, **own}.items()):
            return name
    return None


def _scanning_kwargs(mixer: Mamba1Spec, faults: list[str]) -> dict[str, Any]:
    kind = "none"
    if mixer.directions() != ("row",):
        shares = {frozenset(parts): name for name, parts in BIDIRECTIONAL_SHARES.items()}
        kind = shares.get(mixer.shared(), "")
        if mixer.directions() != SCANS["vim"] or not kind:
            faults.append(f"mixer.scan: {list(mixer.directions())}, sharing {sorted(mixer.shared()) or 'nothing'}")
    if kind == "v1" and mixer.divide_out:
        faults.append("mixer.divide_out: true (it ignores if_divide_out unless bimamba_type is v2)")
    divides = mixer.divide_out if kind == "v2" else True
    return {"bimamba_type": kind, "if_divide_out": divides, "init_layer_scale": mixer.layer_scale}


def _ends(spec: ModelSpec, faults: list[str]) -> dict[str, Any]:
    source, head = spec.input, spec.head
    if not isinstance(source, PatchesInputSpec):
        faults.append(f"input.type: {source.type!r} (it reads images)")
    if not isinstance(head, ClassifierHeadSpec):
        faults.append(f"head.type: {head.type!r} (it has a classifier)")
    if not isinstance(source, PatchesInputSpec) or not isinstance(head, ClassifierHeadSpec):
        return {}
    rows, columns = source.grid()
    if not head.bias and head.num_classes:
        faults.append("head.bias: false")
    if source.rotary != "none" and (source.step() != source.patch_size or rows != columns or rows % 2):
        # Upstream takes a sequence of odd length for one with a class token at its head.
        faults.append(f"input.rotary: {source.rotary!r} for {rows} x {columns} patches with stride {source.step()}")
    if source.dropout and not source.pos_embed:
        faults.append(f"input.dropout: {source.dropout} without position embeddings")
    pools = {pool: name for name, pool in _POOLS.items()}
    return {
        "img_size": list(source.image_size) if isinstance(source.image_size, tuple) else source.image_size,
        "patch_size": source.patch_size,
        "stride": source.step(),
        "channels": source.channels,
        "num_classes": head.num_classes,
        "drop_rate": source.dropout,
        "pt_hw_seq_len": source.rotary_grid,
        "final_pool_type": pools.get(head.pool_for(source), "mean"),
        "if_abs_pos_embed": source.pos_embed,
        "if_rope": source.rotary != "none",
        "if_rope_residual": source.rotary == "residual",
        "if_cls_token": source.cls_token != "none",
        "use_double_cls_token": source.cls_token == "double",
        "use_middle_cls_token": source.cls_token not in ("head", "double"),
    }


def from_upstream(state_dict: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Turns upstream's weights into a state dict of our model; no value is copied or changed.

    Raises:
        CheckpointError: With every missing, unexpected or wrongly shaped weight, and for rotation tables that are not
            there, or not those of the spec.
    """
    if holds_one_mixer(spec):
        return mixer_from_upstream(state_dict, spec, f"weights of {TITLE}")
    tables = other_weights(state_dict, spec)
    weights = {
        name if name.startswith(_ENDS) else PREFIX + name: tensor
        for name, tensor in state_dict.items()
        if name not in tables
    }
    fitted = fit_weights(weights, spec, f"weights of {TITLE}")
    check_rope(tables, spec)
    return fitted


def other_weights(state_dict: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Returns the rotation tables, which are no weights; of a model without rotation they are unexpected as ever."""
    rotates = isinstance(spec.input, PatchesInputSpec) and spec.input.rotary != "none"
    return {name: state_dict[name] for name in ROPE if rotates and name in state_dict}


def to_upstream(state_dict: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Turns our model's weights into upstream's state dict; no value is copied or changed.

    Raises:
        CheckpointError: If the weights do not fit the spec.
        UnsupportedError: If they are those of a single mixer, and the norms around it are not one.
    """
    if holds_one_mixer(spec):
        return mixer_to_upstream(state_dict, spec, TITLE)
    weights = fit_weights(state_dict, spec, "the weights")
    return {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()} | rope_tables(spec)
