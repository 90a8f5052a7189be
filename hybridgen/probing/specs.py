"""Specs for probing: the user's stack between ends of a task's, and what it is compared with. Torch is not loaded."""

from typing import Any, Literal, NamedTuple, Protocol

from hybridgen.costs import cost
from hybridgen.costs.state import can_decode
from hybridgen.errors import HybridgenError, SpecError
from hybridgen.spec.ends import LmHeadSpec, PatchesInputSpec, TokensInputSpec
from hybridgen.spec.model import ModelSpec

_HEAD_DIMS = (64, 32, 16, 8)
_LEAST_WIDTH = 8
Kind = Literal["lm", "autoencoder"]


class HasEnds(Protocol):
    """What a model's ends depend on: a task, or the `Ends` of something that is none."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def kind(self) -> Kind:
        """`lm` predicts a token at each position, `autoencoder` all tokens from the last hidden state."""

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""


class Ends(NamedTuple):
    """The ends that a model is given, without a task."""

    name: str
    kind: Kind
    vocab_size: int


def spec_for(spec: ModelSpec, task: HasEnds) -> ModelSpec:
    """Returns the spec with the ends that a task needs; the stack stays as it is.

    Of a model that reads tokens, embed_scale, dropout and memory tokens stay too, and of a language model's head all
    but the vocabulary. Any other head becomes an untied linear one, or none for an autoencoder.

    Raises:
        HybridgenError: If the model reads images or is not causal.
    """
    label = spec.name or "the model"
    if isinstance(spec.input, PatchesInputSpec):
        raise HybridgenError(f"{label}: reads images (input.type: patches); tasks need a model of tokens")
    document = spec.document()
    kept = document["input"] if isinstance(spec.input, TokensInputSpec) else {"type": "tokens"}
    document["input"] = {**kept, "vocab_size": task.vocab_size, "pad_vocab_size_multiple": 1}
    if task.kind == "autoencoder":
        document["head"] = {"type": "none"}
    elif not isinstance(spec.head, LmHeadSpec):
        document["head"] = {"type": "lm", "tie_embeddings": False}
    try:
        made = ModelSpec.model_validate(document)
    except SpecError as error:
        raise HybridgenError(f"{label}: cannot be given the ends of {task.name}: {error}") from error
    if not can_decode(made):
        raise HybridgenError(
            f"{label}: a layer sees later tokens, so answers could be read off the prompt's end; tasks need a causal "
            f"model: remove what is bidirectional, and write causal: true"
        )
    return made


def attention_baseline(spec: ModelSpec) -> ModelSpec:
    """Returns a plain Transformer of equal width and depth (two layers at least) and about as many parameters.

    Pre-norm RMS, rotary positions on all channels, gated MLPs; their width is what makes the parameters equal. Recall
    needs two layers of attention (Olsson et al., arXiv 2209.11895), so one would show nothing.
    """
    d_model, layers = spec.backbone.d_model, max(2, spec.backbone.n_layer)
    head_dim = next((size for size in _HEAD_DIMS if d_model % size == 0 and d_model // size >= 4), None)
    heads = 1 if head_dim is None else d_model // head_dim
    head_dim = head_dim or d_model + d_model % 2
    mixer = {"type": "attention", "num_heads": heads, "head_dim": head_dim, "rotary_emb_dim": head_dim}
    width = _matched_width(spec, layers, 4 * d_model * heads * head_dim)
    return _plain("attention", d_model, layers, {"mixer": mixer, "mlp": _mlp(width)})


def mlp_control(spec: ModelSpec) -> ModelSpec:
    """Returns MLPs alone, of equal width, depth and about as many parameters: no token sees another.

    What it reaches needs no mixing of tokens at all; a task on which it does well measures nothing.
    """
    d_model, layers = spec.backbone.d_model, spec.backbone.n_layer
    return _plain("mlp", d_model, layers, {"mixer": None, "mlp": _mlp(_matched_width(spec, layers, 0))})


def stack_parameters(spec: ModelSpec) -> int:
    """Counts the parameters between the ends."""
    return cost(spec, 1).total.parameters.non_embedding


def _matched_width(spec: ModelSpec, layers: int, taken: int) -> int:
    """Returns the width of gated MLPs that bring a layer to the average of the spec's, in steps of 8."""
    d_model = spec.backbone.d_model
    left = stack_parameters(spec) / layers - taken
    return max(_LEAST_WIDTH, round(left / (3 * d_model) / 8) * 8)


def _mlp(width: int) -> dict[str, Any]:
    return {"d_intermediate": width, "multiple_of": 1}


def _plain(name: str, d_model: int, layers: int, block: dict[str, Any]) -> ModelSpec:
    backbone = {"d_model": d_model, "n_layer": layers, "blocks": {"block": block}, "pattern": "block"}
    return ModelSpec.model_validate({"name": name, "backbone": backbone})
