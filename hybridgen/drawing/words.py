"""The words and numbers of a picture: what a part is called, and which of its dimensions stand beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hybridgen.spec import (
    AttentionSpec,
    ClassifierHeadSpec,
    CodebooksHeadSpec,
    CodebooksInputSpec,
    LayerSpec,
    LmHeadSpec,
    Mamba1Spec,
    Mamba2Spec,
    MlpSpec,
    ModelSpec,
    PatchesInputSpec,
    TokensInputSpec,
)
from hybridgen.spec.model import BackboneSpec
from hybridgen.spec.scans import ScanningSpec

KIND_NAMES = {"mamba1": "Mamba-1", "mamba2": "Mamba-2", "attention": "Attention", "mlp": "MLP"}
NORM_NAMES = {"rms": "RMS", "layer": "LN"}
PLACEMENT_NAMES = {
    "pre": "pre-norm",
    "post": "norm behind branches",
    "sandwich": "sandwich norm",
    "residual": "post-norm",
}
PATH_WORDS = {
    "scores": "attention scores, added to the next layer's (residual attention)",
    "choices": "what selective layers chose to hide",
    "values": "values of the first attention layer, mixed in (value residual)",
}
_ORDER_ARROWS = {
    "row": "→", "row_reverse": "←", "column": "↓", "column_reverse": "↑",
    "zigzag": "zigzag →", "zigzag_reverse": "zigzag ←",
    "zigzag_column": "zigzag ↓", "zigzag_column_reverse": "zigzag ↑",
}  # fmt: skip
_GATED_NAMES = {"silu": "SwiGLU", "gelu": "GEGLU", "gelu_tanh": "GEGLU (tanh)", "sigmoid": "GLU", "relu": "ReGLU"}


@dataclass(frozen=True, slots=True)
class Branch:
    """A mixer or an MLP in words.

    Attributes:
        kind: `mamba1`, `mamba2`, `attention` or `mlp`.
        title: Its name.
        facts: Its dimensions, and what is unusual about it.
    """

    kind: str
    title: str
    facts: tuple[str, ...]


def branches(layer: LayerSpec, backbone: BackboneSpec, direction: str = "") -> tuple[Branch, ...]:
    """Describes the branches of a layer, in their order.

    Args:
        layer: The layer.
        backbone: Settings of the stack.
        direction: An arrow for a layer of a pair.
    """
    found = []
    mixer = layer.mixer
    if isinstance(mixer, AttentionSpec):
        found.append(Branch("attention", _titled("Attention", direction), tuple(_attention_facts(mixer, backbone))))
    elif mixer is not None:
        arrows = direction or ("" if mixer.is_causal() else _arrows(mixer))
        facts = _mamba1_facts(mixer) if isinstance(mixer, Mamba1Spec) else _mamba2_facts(mixer, backbone.d_model)
        found.append(Branch(mixer.type, _titled(KIND_NAMES[mixer.type], arrows), (*facts, *_scan_facts(mixer))))
    if layer.mlp is not None:
        found.append(Branch("mlp", "MLP", tuple(_mlp_facts(layer.mlp))))
    return tuple(found)


def _titled(name: str, arrows: str) -> str:
    return f"{name}  {arrows}" if arrows else name


def _arrows(mixer: ScanningSpec) -> str:
    """The directions of a scan; a word that all of them share is said once."""
    names = [_ORDER_ARROWS[order] for order in mixer.directions()]
    if all(name.startswith("zigzag") for name in names):
        return "zigzag " + " ".join(name.split()[1] for name in names)
    return " ".join(names)


def _mamba1_facts(mixer: Mamba1Spec) -> Iterator[str]:
    yield f"d_state {mixer.d_state}"
    yield f"expand {number(mixer.expand)}"
    yield f"d_conv {mixer.d_conv}"
    if mixer.dt_rank != "auto":
        yield f"dt_rank {mixer.dt_rank}"
    if mixer.bcdt_norm != "none":
        yield "norm of B, C, dt"


def _mamba2_facts(mixer: Mamba2Spec, d_model: int) -> Iterator[str]:
    yield f"{mixer.nheads(d_model)} heads × {mixer.headdim}"
    yield f"d_state {mixer.d_state}"
    yield f"expand {number(mixer.expand)}"
    yield f"d_conv {mixer.d_conv}"
    if mixer.ngroups > 1:
        yield f"{mixer.ngroups} groups"
    if mixer.d_ssm is not None:
        yield f"d_ssm {mixer.d_ssm}"


def _scan_facts(mixer: ScanningSpec) -> Iterator[str]:
    gate = getattr(mixer, "gate_activation", "silu")
    if gate != "silu":
        yield f"{gate} gate"
    if len(mixer.directions()) > 1 and mixer.shared():
        yield f"shared: {', '.join(sorted(mixer.shared()))}"
    if mixer.layer_scale is not None:
        yield "layer scale"


def _attention_facts(mixer: AttentionSpec, backbone: BackboneSpec) -> Iterator[str]:
    heads = mixer.kv_heads()
    yield f"{mixer.num_heads} heads × {mixer.head_dim_for(backbone.d_model)}"
    if heads != mixer.num_heads:
        yield f"{heads} KV head{'s' if heads > 1 else ''}"
    if not mixer.causal:
        yield "not causal"
    if mixer.rotary_emb_dim:
        yield f"rotary {mixer.rotary_emb_dim}"
    if mixer.window is not None:
        yield f"window {mixer.window:,}"
    if mixer.selective:
        source = "" if mixer.selection_from == "self" else f" ({mixer.selection_from})"
        yield f"selective{source}"
    if mixer.context_budget is not None:
        yield f"context_budget {mixer.context_budget:,}"
    if mixer.mlp_dim:
        yield f"MLP beside it {mixer.mlp_dim_rounded() // 2:,}"
    if mixer.d_conv:
        yield f"d_conv {mixer.d_conv}"
    yield from _extra_facts(mixer)


def _extra_facts(mixer: AttentionSpec) -> Iterator[str]:
    if mixer.alibi:
        yield "ALiBi"
    if mixer.qk_norm != "none":
        yield "QK norm"
    if mixer.logit_softcap is not None:
        yield f"soft cap {number(mixer.logit_softcap)}"
    if mixer.sink:
        yield "sink"
    if mixer.output_gate != "none":
        yield "output gate"


def _mlp_facts(mlp: MlpSpec) -> Iterator[str]:
    yield f"d_intermediate {mlp.hidden():,}"
    name = mlp.gate_activation
    yield _GATED_NAMES.get(name, f"{name}, gated") if mlp.gated else name


def number(value: float) -> str:
    """Writes a number without a fraction of zero."""
    return f"{value:g}"


def short(count: float, giga: str = "B") -> str:
    """Writes a large number with three digits and a unit: 1,617,000,000 is `1.62 B`."""
    size = float(count)
    units = ["", " k", " M", f" {giga}", " T", " P"]
    for unit in units[:-1]:
        if size < 999.5:
            return f"{size:.0f}" if not unit else f"{_three_digits(size)}{unit}"
        size /= 1000
    return f"{_three_digits(size)}{units[-1]}"


def _three_digits(size: float) -> str:
    return f"{size:.0f}" if size >= 99.95 else f"{size:.1f}" if size >= 9.995 else f"{size:.2f}"


def place_words(places: Sequence[int]) -> str:
    """Says which layers: `3`, `0–2`, `0, 4, …, 44` or `1–3, 5–7, …, 41–43`."""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][1] == place - 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    names = [str(first) if first == last else f"{first}–{last}" for first, last in runs]
    return ", ".join(names if len(names) <= 4 else [*names[:2], "…", names[-1]])


def input_words(spec: ModelSpec) -> tuple[str, str]:
    """The model's input: a name, and its dimensions."""
    source, width = spec.input, spec.backbone.d_model
    if isinstance(source, TokensInputSpec):
        extra = f" · {source.memory_tokens} memory tokens" if source.memory_tokens else ""
        return "Token embedding", f"{source.padded_vocab_size():,} × {width:,}{extra}"
    if isinstance(source, CodebooksInputSpec):
        return "Codebook embeddings", f"{source.n_codebooks} × {source.vocab_size:,} × {width:,}, summed"
    if isinstance(source, PatchesInputSpec):
        rows, columns = source.grid()
        height, wide = source.size()
        facts = [f"{height} × {wide} pixels", f"{rows} × {columns} patches"]
        if source.cls_token != "none":
            facts.append(
                "class tokens at both ends" if source.cls_token == "double" else _class_token(source.cls_token)
            )
        facts += ["learned positions"] if source.pos_embed else []
        facts += [f"rotary ({source.rotary})"] if source.rotary != "none" else []
        return "Patch embedding", " · ".join(facts)
    return "Hidden states in", f"(B, T, {width:,})"


def _class_token(place: str) -> str:
    return {"head": "class token first", "middle": "class token in the middle"}[place]


def head_words(spec: ModelSpec) -> tuple[str, str]:
    """The model's output: a name, and its dimensions."""
    head = spec.head
    if isinstance(head, LmHeadSpec):
        rows = f"{spec.input.padded_vocab_size():,} logits" if isinstance(spec.input, TokensInputSpec) else "logits"
        facts = [rows]
        facts += ["weights tied to the embedding"] if head.tie_embeddings else []
        facts += [f"soft cap {number(head.logit_softcap)}"] if head.logit_softcap is not None else []
        return "Language model head", " · ".join(facts)
    if isinstance(head, ClassifierHeadSpec):
        classes = f"{head.num_classes:,} classes" if head.num_classes else "features"
        return "Classifier head", f"{classes} · pool: {head.pool_for(spec.input)}"
    if isinstance(head, CodebooksHeadSpec):
        size = head.vocab_size or getattr(spec.input, "vocab_size", 0)
        return "Codebook heads", f"{getattr(spec.input, 'n_codebooks', 1)} × {size:,} logits"
    return "Hidden states out", f"(B, T, {spec.backbone.d_model:,})"


def is_tied(spec: ModelSpec) -> bool:
    """Whether the head uses the embedding's weight."""
    return isinstance(spec.head, LmHeadSpec) and spec.head.tie_embeddings


def subtitle(spec: ModelSpec) -> str:
    """What all layers share."""
    backbone = spec.backbone
    count = backbone.n_layer
    norm = "RMSNorm" if backbone.norm.type == "rms" else "LayerNorm"
    return " · ".join(
        (f"{count} layer{'s' if count > 1 else ''}", f"d_model {backbone.d_model:,}",
         f"{PLACEMENT_NAMES[backbone.norm_placement]}, {norm}")
    )  # fmt: skip
