"""Documents to test with: one of each form, and a Hypothesis strategy for all the others."""

import copy
from typing import Any

from hypothesis import strategies as st

from hybridgen.errors import Fault, SpecError
from hybridgen.spec import ModelSpec
from hybridgen.spec.activations import ACTIVATION_NAMES
from hybridgen.spec.scans import SCAN_ORDERS, SCAN_PARTS, SCANS

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

IMAGE: dict[str, Any] = {
    "input": {"type": "patches", "image_size": 32, "patch_size": 4, "cls_token": "middle"},
    "backbone": {"d_model": 64, "n_layer": 4, "ssm": {"type": "mamba1", "bidirectional": "v2"}},
    "head": {"type": "classifier", "num_classes": 10},
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


@st.composite
def directions(draw: st.DrawFn, plane: bool = True) -> dict[str, Any]:
    """The fields of a mixer that reads its tokens in several orders; without `plane`, in those of a sequence."""
    fields = draw(optional(layer_scale=st.one_of(st.none(), positive)))
    if draw(flags):
        kind = draw(st.sampled_from(["v1", "v2"]))
        return fields | {"bidirectional": kind, "divide_out": kind == "v2" and draw(flags)}
    names = [order for order in SCAN_ORDERS if plane or order.startswith("row")]
    lists = st.lists(st.sampled_from(names), min_size=2, unique=True)
    fields["scan"] = draw(st.one_of(lists, st.sampled_from(sorted(SCANS) if plane else ["vim"])))
    return fields | draw(optional(scan_share=st.lists(st.sampled_from(SCAN_PARTS), unique=True), divide_out=flags))


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
def patches(draw: st.DrawFn) -> dict[str, Any]:
    """Inputs of images whose sides fit their patches, for stacks whose width is a multiple of 4."""
    patch, channels = draw(st.integers(1, 16)), draw(st.integers(1, 4))
    stride = draw(st.integers(1, patch))
    height, width = (patch + stride * draw(st.integers(0, 15)) for _ in range(2))
    rotary = draw(st.sampled_from(["none", "hidden", "residual"]))
    places = ["none", "head"] if rotary != "none" else ["none", "head", "middle", "double"]
    size = st.sampled_from([height, [height, height]] if height == width else [[height, width]])
    fields = {"type": "patches", "patch_size": patch, "stride": stride, "channels": channels, "rotary": rotary}
    statistics = st.lists(st.floats(0.1, 1.0), min_size=channels, max_size=channels)
    more = draw(optional(pos_embed=flags, mean=statistics, std=st.one_of(st.none(), statistics)))
    if rotary != "none":
        more |= draw(optional(rotary_grid=st.integers(1, 64)))
    return {**fields, "image_size": draw(size), "cls_token": draw(st.sampled_from(places)), **more}


@st.composite
def image_documents(draw: st.DrawFn) -> dict[str, Any]:
    """Valid documents of models that read images."""
    source = draw(patches())
    backbone: dict[str, Any] = {"d_model": draw(st.sampled_from([64, 128])), "n_layer": 2 * draw(st.integers(1, 6))}
    backbone["ssm"] = {**draw(ssms), **draw(st.one_of(st.just({}), directions()))}
    backbone["attn"] = {"num_heads": 4, "causal": draw(flags)}
    backbone["attn_layer_idx"] = draw(st.sampled_from(["none", "1::2", "all"]))
    backbone |= draw(optional(drop_path=st.floats(0.0, 0.9)))
    if draw(flags):
        backbone |= {"bidirectional": "layers", "bidirectional_merge": draw(st.sampled_from(["sum", "mean"]))}
    if source["cls_token"] == "head":  # which sees no patch where every layer is causal
        backbone["attn"]["causal"], backbone["overrides"] = (
            False,
            [{"layers": [-1], "mixer": {"type": "attention", "num_heads": 4}}],
        )
    pools = ["mean", "last", "max", "all"] if source["cls_token"] == "none" else ["cls"]
    classes = {"type": "classifier", "num_classes": draw(st.integers(0, 1000))}
    classes |= draw(optional(pool=st.sampled_from([None, *pools]), bias=flags))
    return {"input": source, "backbone": backbone, "head": draw(st.sampled_from(["none", classes]))}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Valid documents of every form."""
    if draw(st.integers(0, 3)) == 0:
        return draw(image_documents())
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
