"""Budgets of keys per layer, by greedy search on text: the memory of selective layers against what it costs in loss."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from hybridgen.errors import HybridgenError, UnsupportedError
from hybridgen.layers.mixers.pruned_attention import PrunedAttention
from hybridgen.model.model import HybridModel
from hybridgen.spec.ends import LmHeadSpec, TokensInputSpec
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.model import ModelSpec


@dataclass(frozen=True)
class Budgets:
    """One point of the search.

    Attributes:
        per_layer: Keys that each selective layer keeps, by the layer's number.
        memory: Share of the keys that these layers would keep without a budget, weighted by their bytes per key.
        loss: Cross entropy per token, in nats.
    """

    per_layer: dict[int, int]
    memory: float
    loss: float

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return math.exp(min(self.loss, 700.0))


def with_budgets(spec: ModelSpec, per_layer: Mapping[int, int]) -> ModelSpec:
    """Returns a spec whose layers of these numbers keep so many keys; layers alike share a block."""
    document = spec.document()
    blocks: dict[str, Any] = {}
    names: list[str] = []
    own = {id(block): name for name, block in spec.backbone.blocks.items()}
    for index, layer in enumerate(spec.backbone.layers):
        content = layer.model_dump(mode="json", exclude_none=False)
        name = own[id(layer)]
        if index in per_layer:
            content["mixer"] |= {"context_budget": per_layer[index], "dropout": 0.0}
            name = f"{name}_k{per_layer[index]}"
        while blocks.get(name, content) != content:
            name += "_"
        blocks[name] = content
        names.append(name)
    document["backbone"] |= {"blocks": blocks, "pattern": " ".join(names)}
    return ModelSpec.model_validate(document)


def rebuilt(model: HybridModel, spec: ModelSpec) -> HybridModel:
    """Returns a model of another spec around the same weights, which must have the same names and shapes."""
    with torch.device("meta"):
        other = HybridModel(spec)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.train(model.training)


def prunable_layers(spec: ModelSpec) -> list[int]:
    """The numbers of the layers that a budget can be given.

    Raises:
        UnsupportedError: If there are none, or the model is no language model.
    """
    if not isinstance(spec.head, LmHeadSpec):
        raise UnsupportedError(f"budgets are searched for models with head: {{type: lm}}; given '{spec.head.type}'")
    mixers = [layer.mixer for layer in spec.backbone.layers]
    found = [
        index
        for index, mixer in enumerate(mixers)
        if isinstance(mixer, AttentionSpec) and mixer.selective and mixer.window is None and not mixer.alibi
    ]
    takers = any(isinstance(mixer, AttentionSpec) and mixer.selection_from != "self" for mixer in mixers)
    if not found or takers or spec.backbone.residual_attn is not None:
        raise UnsupportedError(
            "budgets are for models with selective: true in some layer without window and alibi, and neither "
            "residual_attn nor selection_from, which need all keys"
        )
    return found


class BudgetSearch:
    """Lowers the budget of one layer after another, each time where the loss rises least per byte saved.

    Attributes:
        ids: (B, T) the text, in rows of equal length.
        layers: Numbers of the layers that are pruned.
        first: Their budgets at the beginning: all keys, or what the model's own spec says.
    """

    def __init__(self, model: HybridModel, ids: Int[Tensor, "B T"], shrink: float = 0.5, batch_size: int = 8) -> None:
        self.layers = prunable_layers(model.spec)
        if ids.shape[1] < 4:
            raise HybridgenError(f"budgets need rows of at least 4 tokens; given {ids.shape[1]}")
        if not 0 < shrink < 1:
            raise HybridgenError(f"shrink must lie between 0 and 1; given {shrink}")
        self.ids, self.shrink, self.batch_size = ids, shrink, batch_size
        self.length = ids.shape[1] - 1 + cast(TokensInputSpec, model.spec.input).memory_tokens
        given = {index: cast(AttentionSpec, model.spec.backbone.layers[index].mixer) for index in self.layers}
        self.first = {index: min(mixer.context_budget or self.length, self.length) for index, mixer in given.items()}
        self.model = rebuilt(model, with_budgets(model.spec, self.first)).eval()
        self._vocab_size = cast(TokensInputSpec, model.spec.input).vocab_size
        mixers = {index: cast(Any, self.model.backbone.layers[index]).mixer for index in self.layers}
        self._mixers = cast(dict[int, PrunedAttention], mixers)
        self._weights = {index: mixer.kv_heads * mixer.head_dim for index, mixer in self._mixers.items()}

    def run(self, target: float) -> list[Budgets]:
        """Returns the curve from the model as it is to a share of the memory of at most `target`.

        Args:
            target: Share of the keys, above 0 and at most 1.

        Raises:
            HybridgenError: If two keys per layer are more than the target.
        """
        least = 2 / self.length
        if not least <= target <= 1:
            raise HybridgenError(
                f"the target share of the memory must lie between 2 keys of {self.length}, {least:.4g}, and 1; given "
                f"{target}"
            )
        return list(self._points(target))

    def _points(self, target: float) -> Iterator[Budgets]:
        point = self.measured(self.first)
        yield point
        while point.memory > target:
            candidates = [self.measured(budgets) for budgets in self._steps(point.per_layer)]
            before = point
            # Ties, as where a budget costs nothing, go to the step that saves most, then to the first layer.
            point = min(
                candidates,
                key=lambda one: ((one.loss - before.loss) / (before.memory - one.memory), one.memory),
            )
            yield point

    def _steps(self, per_layer: Mapping[int, int]) -> Iterator[dict[int, int]]:
        for index, budget in per_layer.items():
            if budget > 2:
                yield {**per_layer, index: max(2, math.floor(budget * self.shrink))}

    def memory(self, per_layer: Mapping[int, int]) -> float:
        """The share of the memory that budgets take."""
        whole = sum(self._weights.values()) * self.length
        return sum(self._weights[index] * min(budget, self.length) for index, budget in per_layer.items()) / whole

    def bounded(self, point: Budgets) -> dict[int, int]:
        """The budgets of a point that are less than the text is long."""
        return {index: budget for index, budget in point.per_layer.items() if budget < self.length}

    @torch.no_grad()
    def measured(self, per_layer: dict[int, int]) -> Budgets:
        """Measures the loss under budgets: one pass over the text."""
        for index, budget in per_layer.items():
            self._mixers[index].budget = budget
        total = torch.zeros((), dtype=torch.float64, device=self.ids.device)
        for rows in self.ids.split(self.batch_size):
            logits = self.model(rows[:, :-1])[..., : self._vocab_size].float()
            total += F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten().long(), reduction="sum").double()
        loss = float(total) / (self.ids.shape[0] * (self.ids.shape[1] - 1))
        if not math.isfinite(loss):
            raise HybridgenError("the model's loss on this text is no number; its weights, or their dtype, are damaged")
        return Budgets(dict(per_layer), self.memory(per_layer), loss)
