"""Residual attention: the scores that one attention layer hands to the next.

With raw_l the scaled products of layer l's queries and keys, the scores of layer l are

    raw:       raw_1 + ... + raw_l, before soft cap, mask and selection, so that none of these leaks into later layers
    mean:      the same divided by l
    upstream:  raw_l + the logits of layer l - 1 as they went into its softmax (x-transformers)

Source: arXiv 2012.11747 (RealFormer; `mean` is its `use_running_mean`).
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class ScoreCarry:
    """What a chain of attention layers has added up so far, in one of two forms.

    The scores themselves are a table of queries by keys; it costs no operations to add to it. The queries and keys
    that they are the products of take memory linear in the length, and are kept for the backward pass in any case; but
    layer l computes l products. The first form is for few queries at a time, the second for whole sequences in
    training.

    Attributes:
        layers: Attention layers in the chain so far.
        scores: (B, H, T, S) their sum, float32 (float64 for float64); None in the other form.
        queries: Per layer (B, H, T, P), scaled.
        keys: Per layer (B, K, S, P).
    """

    layers: int
    scores: Float[Tensor, "B H T S"] | None = None
    queries: tuple[Float[Tensor, "B H T _"], ...] = ()
    keys: tuple[Float[Tensor, "B _ S _"], ...] = ()
