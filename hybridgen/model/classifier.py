"""What a classifier makes of the hidden states of a sequence: one row of logits."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hybridgen.layers.linear import Linear
from hybridgen.ops.add_norm.plain import upcast

STD = 0.02
"""Standard deviation that class tokens, position embeddings and classifiers start with."""


def truncated_normal(shape: torch.Size, std: float, generator: torch.Generator) -> Tensor:
    """Draws from the normal distribution of this deviation between -2 and 2, as timm does for these weights."""
    return nn.init.trunc_normal_(torch.empty(shape, device="cpu"), std=std, generator=generator)


class Classifier(Linear):
    """The map from pooled hidden states to logits: weights start normal, biases at zero."""

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value of `weight` or `bias`."""
        if name == "bias":
            return torch.zeros(self.out_features, device="cpu")
        return truncated_normal(self.weight.shape, STD, generator)


def pooled(
    hidden: Float[Tensor, "B T D"], how: str, class_places: tuple[int, ...], mask: Bool[Tensor, "B T"] | None
) -> Float[Tensor, "B D"]:
    """Returns one vector per row.

    Args:
        hidden: Hidden states after the last norm.
        how: `cls` (the mean over the class tokens), `mean` or `last`.
        class_places: Where the class tokens stand.
        mask: False for padding, which takes no part; None if there is none. In a row of nothing else a mean is zero.
    """
    if how == "cls":
        tokens = [hidden[:, place] for place in class_places]
        return tokens[0] if len(tokens) == 1 else (tokens[0] + tokens[1]) / 2
    if how == "last":
        if mask is None:
            return hidden[:, -1]
        slots = torch.arange(mask.shape[1], device=mask.device)
        last = torch.where(mask, slots, 0).amax(dim=1)
        return hidden.take_along_dim(last[:, None, None], dim=1)[:, 0]
    if mask is None:
        return hidden.mean(dim=1)
    weights = mask[..., None].to(upcast(hidden).dtype)
    return ((upcast(hidden) * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)).to(hidden.dtype)


def classify(
    hidden: Float[Tensor, "B T D"],
    head: nn.Module | None,
    how: str,
    class_places: tuple[int, ...] = (),
    mask: Bool[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B ..."]:
    """Returns what the head says: (B, C), with `all` (B, T, C); without a head the pooled hidden states.

    `max` is the largest logit of each class over all tokens, as in Vim, not the logits of a largest hidden state.
    """
    if how not in ("all", "max"):
        vector = pooled(hidden, how, class_places, mask)
        return vector if head is None else head(vector)
    logits: Tensor = hidden if head is None else head(hidden)
    if how == "all":
        return logits
    return (logits if mask is None else logits.masked_fill(~mask[..., None], -torch.inf)).amax(dim=1)
