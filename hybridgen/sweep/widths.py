"""Widths of a model that can be changed while everything else keeps its shape."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from hybridgen.errors import HybridgenError
from hybridgen.spec import Mamba2Spec, ModelSpec

Data = dict[str, Any]
_ALIGNED = 8
"""A width that is a multiple of this stays one, where nothing asks for more."""


@dataclass(frozen=True)
class Width:
    """A width of one model, as it is and as it can be.

    Attributes:
        now: The width that the model has.
        step: It can be any multiple of this.
        change: Rewrites a resolved document in place to another width.
    """

    now: int
    step: int
    change: Callable[[Data, int], None]

    def scaled(self, spec: ModelSpec, width: int) -> ModelSpec:
        """The model with another width."""
        if width == self.now:
            return spec
        document = copy.deepcopy(spec.document())
        self.change(document, width)
        return ModelSpec.model_validate(document)


def width_of(spec: ModelSpec, key: str) -> Width:
    """The width of a model that a key of `MATCH_BY` names.

    Raises:
        HybridgenError: If the model has none.
    """
    return MATCH_BY[key](spec)


def _d_model(spec: ModelSpec) -> Width:
    """The width of the residual stream, and in proportion MLPs and the number of heads, whose own width stays."""
    now, step = spec.backbone.d_model, 1
    for block in spec.backbone.blocks.values():
        mixer = block.mixer
        if mixer is None or mixer.type == "attention":
            continue
        whole = Fraction(str(mixer.expand))  # expand * d_model is a whole number, and one of whole heads
        if isinstance(mixer, Mamba2Spec) and mixer.d_ssm is None:
            whole /= mixer.headdim * mixer.ngroups
        step = math.lcm(step, whole.denominator)
    if now % math.lcm(step, _ALIGNED) == 0:
        step = math.lcm(step, _ALIGNED)

    def change(document: Data, width: int) -> None:
        document["backbone"]["d_model"] = width
        for block in document["backbone"]["blocks"].values():
            mixer, mlp = block["mixer"], block["mlp"]
            if mixer is not None and mixer["type"] == "attention":
                _scale_attention(mixer, now, width)
            elif mixer is not None and mixer.get("d_ssm") is not None:
                mixer["d_ssm"] = _multiple(mixer["d_ssm"] * width / now, mixer["headdim"] * mixer["ngroups"])
            if mlp is not None:
                mlp["d_intermediate"] = _multiple(mlp["d_intermediate"] * width / now, 1)

    return Width(now, step, change)


def _scale_attention(mixer: Data, now: int, width: int) -> None:
    """Heads keep their width and become more or fewer: all of them alike, or with shared keys those that share."""
    heads, shared = mixer["num_heads"], mixer["num_heads_kv"] or mixer["num_heads"]
    head_dim = mixer["head_dim"] or now // heads
    mixer["mlp_dim"] = round(mixer["mlp_dim"] * width / now)
    if mixer["alibi_slopes"] is None:  # a list of slopes is one for each head
        per_key = 1 if heads == shared else shared
        mixer["num_heads"] = _multiple(heads * width / now, per_key)
        if heads == shared and mixer["num_heads_kv"] is not None:
            mixer["num_heads_kv"] = mixer["num_heads"]
        mixer["selection_head"] = min(mixer["selection_head"], mixer["num_heads"] - 1)
    mixer["head_dim"] = None if mixer["num_heads"] * head_dim == width else head_dim


def _mlps(behind: Callable[[Data | None], bool], what: str) -> Callable[[ModelSpec], Width]:
    """The hidden width of the MLPs behind some mixers; where they differ, that of the widest, the others follow."""

    def chosen(document: Data) -> Iterator[Data]:
        for block in document["backbone"]["blocks"].values():
            if block["mlp"] is not None and behind(block["mixer"]):
                yield block["mlp"]

    def width(spec: ModelSpec) -> Width:
        mlps = list(chosen(spec.document()))
        if not mlps:
            raise HybridgenError(f"this model has no MLPs {what}".rstrip())
        now = max(mlp["d_intermediate"] for mlp in mlps)
        step = math.lcm(*(mlp["multiple_of"] for mlp in mlps))

        def change(document: Data, width: int) -> None:
            for mlp in chosen(document):
                mlp["d_intermediate"] = _multiple(mlp["d_intermediate"] * width / now, 1)

        return Width(now, step, change)

    return width


def _d_state(spec: ModelSpec) -> Width:
    """The state size of the SSM mixers; where they differ, that of the largest, the others follow."""
    mixers = [block.mixer for block in spec.backbone.blocks.values()]
    states = [mixer.d_state for mixer in mixers if mixer is not None and mixer.type != "attention"]
    if not states:
        raise HybridgenError("this model has no SSM layers")
    now = max(states)

    def change(document: Data, width: int) -> None:
        for block in document["backbone"]["blocks"].values():
            if block["mixer"] is not None and "d_state" in block["mixer"]:
                block["mixer"]["d_state"] = _multiple(block["mixer"]["d_state"] * width / now, 1)

    return Width(now, 1, change)


def _multiple(value: float, of: int) -> int:
    """The nearest multiple, at least one."""
    return max(1, round(value / of)) * of


MATCH_BY: dict[str, Callable[[ModelSpec], Width]] = {
    "backbone.d_model": _d_model,
    "backbone.mlp.d_intermediate": _mlps(lambda _: True, ""),
    "backbone.d_intermediate": _mlps(lambda mixer: mixer is None or mixer["type"] != "attention", "behind SSM layers"),
    "backbone.attn_mlp_d_intermediate": _mlps(
        lambda mixer: mixer is not None and mixer["type"] == "attention", "behind attention layers"
    ),
    "backbone.ssm.d_state": _d_state,
}
"""The widths by which models can be made equal in size, under the names of the short form."""
