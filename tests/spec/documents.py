"""Documents to test with: one of each form, and a Hypothesis strategy for all the others."""

import copy
from typing import Any

from hypothesis import strategies as st

from hybridgen.errors import Fault, SpecError
from hybridgen.spec import ModelSpec
from hybridgen.spec.activations import ACTIVATION_NAMES

SHORT: dict[str, Any] = {
    "name": "short",
    "input": {"type": "tokens", "vocab_size": 1000},
    "backbone": {
        "d_model": 512,
        "n_layer": 12,
        "attn_layer_idx": [3, 7, 11],
        "attn_mlp_d_intermediate": 2048,
        "ssm": {"type": "mamba2", "d_state": 64},
        "attn": {"num_heads": 8, "num_heads_kv": 2, "rotary_emb_dim": 64},
    },
    "head": {"type": "lm"},
}
LONG: dict[str, Any] = {
    "backbone": {
        "d_model": 512,
        "blocks": {
            "m": {"mixer": {"type": "mamba1"}, "mlp": None},
            "a": {"mixer": {"type": "attention", "num_heads": 8}, "mlp": {"d_intermediate": 1024}},
            "f": {"mlp": {"d_intermediate": 1024}},
        },
        "pattern": "(m*3 a)*2 f",
    },
}


def changed(document: dict[str, Any], **backbone: Any) -> dict[str, Any]:
    """A copy of a document with other fields in its backbone; a value of `...` removes the field."""
    document = copy.deepcopy(document)
    for key, value in backbone.items():
        if value is ...:
            del document["backbone"][key]
        else:
            document["backbone"][key] = value
    return document


def faults_of(document: Any) -> list[Fault]:
    """The faults of a document that must have some."""
    try:
        ModelSpec.model_validate(document)
    except SpecError as error:
        return error.faults
    raise AssertionError("the document should not be valid")


def texts_of(document: Any) -> list[str]:
    """The texts of its faults."""
    return [str(fault) for fault in faults_of(document)]


# -- every valid document

flags = st.booleans()
activations = st.sampled_from([*ACTIVATION_NAMES, "swish"])
positive = st.floats(1e-6, 100.0)


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings with any of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


def mamba1() -> st.SearchStrategy[dict[str, Any]]:
    """Fields of Mamba-1."""
    return optional(
        d_state=st.integers(1, 64),
        d_conv=st.integers(1, 8),
        expand=st.sampled_from([1, 2, 1.5]),
        dt_rank=st.one_of(st.just("auto"), st.integers(1, 64)),
        dt_min=st.floats(1e-4, 1e-2),
        dt_max=st.floats(1e-2, 1.0),
        dt_init=st.sampled_from(["random", "constant"]),
        conv_bias=flags,
        bias=flags,
        gate_activation=activations,
        bcdt_norm=st.sampled_from(["none", "weightless", "learned"]),
    )


def mamba2() -> st.SearchStrategy[dict[str, Any]]:
    """Fields of Mamba-2, in a stack whose d_model is a multiple of 64."""
    return optional(
        d_state=st.integers(1, 256),
        headdim=st.sampled_from([16, 32, 64]),
        d_ssm=st.sampled_from([None, 64]),
        A_init_range=st.sampled_from([[1, 16], [0.5, 2.0]]),
        D_has_hdim=flags,
        dt_limit=st.sampled_from([[0.0, float("inf")], [0.1, 2.0], [0.0, None]]),
        conv_init=st.one_of(st.none(), positive),
        gate_activation=activations,
    )


def attention() -> st.SearchStrategy[dict[str, Any]]:
    """Fields of attention but for num_heads, which is a multiple of 4."""
    return optional(
        num_heads_kv=st.sampled_from([None, 1, 2, 4]),
        head_dim=st.sampled_from([None, 32, 48]),
        rotary_emb_dim=st.sampled_from([0, 8]),
        rotary_emb_base=st.sampled_from([10_000, 5e5]),
        window=st.one_of(st.none(), st.integers(1, 512)),
        qk_norm=st.sampled_from(["none", "head", "full"]),
        softmax_scale=st.one_of(st.none(), positive),
        sink=flags,
        output_gate=st.sampled_from(["none", "elementwise", "head"]),
        d_conv=st.integers(0, 4),
    ).map(_without_idle_base)


def _without_idle_base(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != "rotary_emb_base" or fields.get("rotary_emb_dim")}


def mlp() -> st.SearchStrategy[dict[str, Any]]:
    """Fields of an MLP but for its width."""
    return optional(gated=flags, gate_activation=activations, bias=flags, multiple_of=st.integers(1, 256))


ssms = st.one_of(
    mamba1().map(lambda fields: {"type": "mamba1", **fields}), mamba2().map(lambda fields: {"type": "mamba2", **fields})
)
heads = st.sampled_from([4, 8])
attentions = st.builds(lambda fields, count: {"num_heads": count, **fields}, attention(), heads)
mlps = st.builds(lambda fields, width: {"d_intermediate": width, **fields}, mlp(), st.integers(1, 4096))


@st.composite
def layer_indices(draw: st.DrawFn, n_layer: int) -> Any:
    """A layer index expression that selects at least one layer."""
    layers = draw(st.lists(st.integers(0, n_layer - 1), min_size=1, unique=True))
    flipped = [layer - n_layer if draw(flags) else layer for layer in layers]
    return draw(st.sampled_from([flipped, "all", "::2", f"{layers[0]}:", f"-{n_layer - layers[0]}:"]))


@st.composite
def short_backbones(draw: st.DrawFn) -> dict[str, Any]:
    """Backbones in the short form."""
    n_layer = draw(st.integers(1, 24))
    backbone = {"d_model": draw(st.sampled_from([64, 128, 512])), "n_layer": n_layer}
    backbone["ssm"], backbone["attn"] = draw(ssms), draw(attentions)
    backbone["attn_layer_idx"] = draw(st.one_of(st.sampled_from([[], "none"]), layer_indices(n_layer)))
    width = st.sampled_from([0, 128, 300])
    backbone |= draw(optional(mlp=mlp(), d_intermediate=width, attn_mlp_d_intermediate=width))
    if draw(flags):
        patch = draw(mlps)
        backbone["overrides"] = [{"layers": draw(layer_indices(n_layer)), "mlp": patch} for _ in range(2)]
        backbone["overrides"] += [{"layers": "all", "mixer": {"d_conv": 2}}]
    return backbone


@st.composite
def long_backbones(draw: st.DrawFn) -> dict[str, Any]:
    """Backbones in the long form."""
    mixers = st.one_of(ssms, attentions.map(lambda fields: {"type": "attention", **fields}))
    names = draw(st.lists(st.sampled_from(["m", "a", "w", "ssm", "attn_2"]), min_size=1, unique=True))
    blocks = {name: {"mixer": draw(mixers), "mlp": draw(st.one_of(st.none(), mlps))} for name in names}
    pattern = draw(st.lists(st.sampled_from(names), min_size=1, max_size=12))
    return {
        "d_model": draw(st.sampled_from([64, 128, 512])),
        "blocks": blocks,
        "pattern": draw(st.sampled_from([pattern, f"({' '.join(pattern)})*3"])),
    }


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Valid documents of every form."""
    backbone = draw(st.one_of(short_backbones(), long_backbones()))
    backbone |= draw(
        optional(
            norm=optional(type=st.sampled_from(["rms", "layer"]), eps=positive, unit_offset=flags),
            norm_placement=st.sampled_from(["pre", "post", "sandwich", "residual"]),
            residual_in_fp32=flags,
            init=optional(initializer_range=positive, rescale_prenorm_residual=flags),
        )
    )
    tokens = {"type": "tokens", "vocab_size": draw(st.integers(1, 1000))}
    codebooks = {"type": "codebooks", "n_codebooks": 9, "vocab_size": 1026}
    ends = draw(
        st.sampled_from(
            [
                {},
                {"input": "hidden", "head": "none"},
                {"input": tokens, "head": {"type": "lm", "logit_softcap": 30.0}},
                {"input": tokens, "head": "lm", "name": "a.b-c_1"},
                {"input": codebooks, "head": {"type": "codebooks", "vocab_size": 1025}},
                {"input": codebooks},
            ]
        )
    )
    return {**ends, "backbone": backbone}
