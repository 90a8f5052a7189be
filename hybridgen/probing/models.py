"""Models for a task: the user's stack between ends of the task's, ready to train."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hybridgen.builder import build
from hybridgen.model.model import HybridModel
from hybridgen.probing.specs import spec_for
from hybridgen.spec.model import ModelSpec
from hybridgen.tasks import Task


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
