"""Steps of an optimiser: AdamW, a warmup and a cosine to zero, gradients clipped. Every training here takes these."""

import math

import torch
from torch import Tensor, nn

_CLIPPED = 1.0


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """Returns the share of the learning rate at a step, counted from 0: linear warmup times a cosine to zero."""
    warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))


class Descent:
    """Brings the loss of a model down.

    Args:
        model: What is trained, in place.
        rate: Learning rate, at its highest.
        steps: Steps in all.
        warmup: Those of them in which the rate rises.
        weight_decay: Of matrices; vectors (norms, biases, A, D) have none.
    """

    def __init__(self, model: nn.Module, rate: float, steps: int, warmup: int, weight_decay: float) -> None:
        self._model = model
        self._optimizer = torch.optim.AdamW(_groups(model, weight_decay), lr=rate)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: rate_factor(step, steps, warmup)
        )

    def step(self, loss: Tensor) -> bool:
        """Takes a step, unless the loss is infinite or no number; returns whether it did."""
        if not bool(torch.isfinite(loss)):
            return False
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), _CLIPPED)
        self._optimizer.step()
        self._schedule.step()
        return True


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Splits parameters into those that decay and those that do not."""
    names = {name for name, parameter in model.named_parameters() if parameter.ndim > 1 and not name.endswith("A_log")}
    decaying = [parameter for name, parameter in model.named_parameters() if name in names]
    others = [parameter for name, parameter in model.named_parameters() if name not in names]
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
