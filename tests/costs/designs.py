"""Random valid specs of every kind of layer and end, small enough to be built on the meta device in no time."""

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from hybridgen.errors import SpecError
from hybridgen.spec import ModelSpec
from tests.spec.documents import documents

MOST_LAYERS = 6

_flags = st.booleans()


def _change(part: str, **fields: Any) -> tuple[str, st.SearchStrategy[dict[str, Any]]]:
    """A change of the parts of one kind; strategies among the values are drawn from."""
    drawn = {name: value if isinstance(value, st.SearchStrategy) else st.just(value) for name, value in fields.items()}
    return part, st.fixed_dictionaries(drawn)


_RICH = {
    "input": {"type": "tokens", "vocab_size": 300},
    "backbone": {
        "d_model": 64,
        "blocks": {
            "a": {"mixer": {"type": "attention", "num_heads": 4}},
            "b": {"mixer": {"type": "attention", "num_heads": 4}, "mlp": {"d_intermediate": 100}},
            "c": {"mixer": {"type": "attention", "num_heads": 4}},
            "m": {"mixer": {"type": "mamba1"}, "mlp": {"d_intermediate": 100}},
            "n": {"mixer": {"type": "mamba2", "headdim": 16, "d_state": 24}},
        },
        "pattern": "a m b n c a",
    },
    "head": "none",
}
"""A stack in which layers can hand on to each other whatever there is."""

_ORDERS = st.sampled_from([["row", "row_reverse"], ["row_reverse"], "vim"])
_SHARES = st.lists(st.sampled_from(["conv", "proj", "A", "D"]), unique=True)
_TOKENS = st.integers(0, 9).map(lambda count: {"type": "tokens", "vocab_size": 300, "memory_tokens": count})
_CHANGES = (
    _change("attention", mlp_dim=st.sampled_from([100, 256, 300]), out_proj_bias=_flags),
    _change("attention", qkv_proj_bias=_flags, output_gate=st.sampled_from(["none", "elementwise", "head"])),
    _change("attention", sink=_flags, d_conv=st.integers(0, 4), qk_norm=st.sampled_from(["none", "head", "full"])),
    _change("attention", num_heads_kv=st.sampled_from([1, 2, None]), head_dim=st.sampled_from([None, 8, 24])),
    _change("attention", window=st.integers(1, 40)),
    _change("attention", selective=True, selection_from=st.sampled_from(["self", "accumulate", "previous", "guide"])),
    _change("attention", selective=True, window=None, context_budget=st.integers(2, 40)),
    _change("attention", alibi=True),
    _change("attention", causal=False, window=None),
    _change("mamba1", layer_scale=st.sampled_from([None, 0.1]), bias=_flags, conv_bias=_flags),
    _change("mamba1", bcdt_norm=st.sampled_from(["none", "weightless", "learned"]), d_conv=st.integers(1, 5)),
    _change("mamba1", scan=_ORDERS, scan_share=_SHARES, bidirectional="none", divide_out=False),
    _change("mamba2", scan=_ORDERS, scan_share=_SHARES, bidirectional="none", divide_out=False),
    _change("mamba2", layer_scale=st.sampled_from([None, 0.1]), bias=_flags, conv_bias=_flags, rmsnorm=_flags),
    _change("mamba2", ngroups=st.sampled_from([1, 2]), D_has_hdim=_flags, d_conv=st.integers(1, 5)),
    _change("mlp", out_bias=st.sampled_from([None, False, True]), gated=_flags, bias=_flags),
    _change("norm", bias=st.sampled_from([None, False, True]), type=st.sampled_from(["rms", "layer"])),
    _change("norm", final_bias=True, bias=None, type="rms"),
    _change("backbone", norm_placement=st.sampled_from(["pre", "post", "sandwich", "residual"])),
    _change("backbone", value_residual=st.sampled_from(["learned", "half"])),
    _change("backbone", residual_attn=st.sampled_from([{"carry": "raw"}, {"carry": "mean"}, {"carry": "upstream"}])),
    _change("backbone", bidirectional="layers"),
    _change(
        "ends",
        input=_TOKENS,
        head=st.one_of(
            st.fixed_dictionaries({"type": st.just("lm"), "tie_embeddings": _flags, "bias": _flags}),
            st.fixed_dictionaries(
                {
                    "type": st.just("classifier"),
                    "num_classes": st.integers(0, 9),
                    "pool": st.sampled_from([None, "last", "max", "all"]),
                    "bias": _flags,
                }
            ),
        ),
    ),
)  # fmt: skip


def _parts(document: dict[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    blocks = document["backbone"]["blocks"].values()
    if kind == "mlp":
        yield from (block["mlp"] for block in blocks if block["mlp"] is not None)
    elif kind in ("norm", "backbone", "ends"):
        yield {"norm": document["backbone"]["norm"], "backbone": document["backbone"], "ends": document}[kind]
    else:
        yield from (block["mixer"] for block in blocks if block["mixer"] and block["mixer"]["type"] == kind)


def _shortened(spec: ModelSpec) -> ModelSpec:
    """The first layers of a stack."""
    document, names = spec.document(), {id(block): name for name, block in spec.backbone.blocks.items()}
    kept = [names[id(layer)] for layer in spec.backbone.layers[:MOST_LAYERS]]
    backbone = document["backbone"]
    backbone |= {"pattern": " ".join(kept), "n_layer": len(kept)}
    backbone["blocks"] = {name: block for name, block in backbone["blocks"].items() if name in kept}
    return _valid(document) or spec


def _valid(document: dict[str, Any]) -> ModelSpec | None:
    try:
        return ModelSpec.model_validate(document)
    except SpecError:
        return None


@st.composite
def designs(draw: st.DrawFn) -> ModelSpec:
    """A valid spec: one of `documents`, with changes to all parts of a kind, or to one, as far as it stays valid."""
    spec = _shortened(ModelSpec.model_validate(draw(st.one_of(documents(), st.just(_RICH)))))
    for kind, fields in draw(st.lists(st.sampled_from(_CHANGES), min_size=3, max_size=9)):
        document = copy.deepcopy(spec.document())
        found = list(_parts(document, kind))
        shared = draw(fields) if draw(_flags) else None
        for part in found:
            part.update(draw(fields) if shared is None else shared)
        spec = _valid(document) or spec
    return spec
