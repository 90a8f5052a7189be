"""How well a model answers."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from hybridgen.tasks import Examples


class Score(NamedTuple):
    """Result of a test.

    Attributes:
        accuracy: Share of the scored positions that are right (micro average).
        macro_accuracy: Mean over the tokens that are answers of the share of each that is right; what MAD reports.
        loss: Mean cross entropy at the scored positions.
    """

    accuracy: float
    macro_accuracy: float
    loss: float


@torch.no_grad()
def score(model: nn.Module, test: Sequence[Examples]) -> Score:
    """Tests a model on batches of prompts, and leaves it in training mode."""
    model.eval()
    answers, right, losses = [], [], []
    for examples in test:
        logits = model(examples.inputs)[examples.mask].float()
        wanted = examples.targets[examples.mask]
        answers.append(wanted)
        right.append(logits.argmax(1) == wanted)
        losses.append(functional.cross_entropy(logits, wanted, reduction="sum").double())
    model.train()
    wanted, hits = torch.cat(answers), torch.cat(right).double()
    asked = torch.bincount(wanted)
    shares = torch.bincount(wanted, hits)[asked > 0] / asked[asked > 0]
    return Score(hits.mean().item(), shares.mean().item(), (torch.stack(losses).sum() / len(wanted)).item())
