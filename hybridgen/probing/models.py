"""Models for a task: the user's backbone between ends of the task's, and what it is compared with."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hybridgen.builder import build
from hybridgen.costs import cost
from hybridgen.costs.state import can_decode
from hybridgen.errors import HybridgenError, SpecError
from hybridgen.model.model import HybridModel
from hybridgen.spec.ends import LmHeadSpec, PatchesInputSpec, TokensInputSpec
from hybridgen.spec.model import ModelSpec
from hybridgen.tasks import Task

_HEAD_DIMS = (64, 32, 16, 8)
_LEAST_WIDTH = 8


def spec_for(spec: ModelSpec, task: Task) -> ModelSpec:
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


def build_for(spec: ModelSpec, task: Task, device: str | torch.device = "cpu", seed: int = 0) -> "TaskModel":
    """Builds a spec with the ends of a task, ready to train.

    Raises:
        HybridgenError: If the model reads images or is not causal.
    """
    model = build(spec_for(spec, task), device=device, seed=seed).train()
    if task.kind == "autoencoder":
        return Autoencoder(model, task.vocab_size, seed)
    return LanguageModel(model)


class TaskModel(nn.Module):
    """A model that gives logits (B, T, V) for the tokens (B, T) of a task."""

    def __init__(self, model: HybridModel) -> None:
        super().__init__()
        self.model = model

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.device


class LanguageModel(TaskModel):
    """Predicts at each position from the tokens up to there."""

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Returns logits."""
        logits: Tensor = self.model(tokens)
        return logits


class Autoencoder(TaskModel):
    """Predicts all tokens from the hidden state of the last one, as MAD does (arXiv 2403.17844, appendix B.1).

    The model without its head is the encoder: h_T, its last hidden state. At each position h_T + p_t, with p_t the
    fixed sines and cosines of Vaswani et al. (arXiv 1706.03762, 3.5), goes through an MLP that does not widen, of two
    normed hidden layers with GELU, to the vocabulary. The same for every model, so what differs is h_T.
    """

    def __init__(self, model: HybridModel, vocab_size: int, seed: int) -> None:
        super().__init__(model)
        width = model.spec.backbone.d_model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hidden = [part for _ in range(2) for part in (nn.RMSNorm(width), nn.Linear(width, width), nn.GELU())]
            decoder = nn.Sequential(*hidden, nn.RMSNorm(width), nn.Linear(width, vocab_size))
        self.decoder = decoder.to(model.device)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Returns logits."""
        last = self.model(tokens, num_last_tokens=1)
        logits: Tensor = self.decoder(last + sinusoids(tokens.shape[1], last.shape[2], last.device))
        return logits


def sinusoids(length: int, width: int, device: torch.device) -> Float[Tensor, "T D"]:
    """Returns the sines (even channels) and cosines (odd) of each position (arXiv 1706.03762, section 3.5)."""
    channel = torch.arange(width, device=device)
    rates = torch.exp(-math.log(10_000.0) * (channel // 2 * 2) / width)
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.where(channel % 2 == 0, angles.sin(), angles.cos())


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
