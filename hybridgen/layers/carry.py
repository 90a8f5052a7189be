"""What attention layers hand to later ones: scores (residual attention), what they hide (selection), and values.

With raw_l the scaled products of layer l's queries and keys, the scores of layer l are

    raw:       raw_1 + ... + raw_l, before ALiBi, soft cap, mask and selection: none of these leaks
    mean:      the same divided by l
    upstream:  raw_l + the logits of layer l - 1 as they went into its softmax (x-transformers)

Sources: arXiv 2012.11747 (RealFormer; `mean` is its `use_running_mean`), 2410.17897 (values: ResFormer).
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from hybridgen.ops.selective_attention.in_place import ScoreTable


class ScoreCarry(NamedTuple):
    """What a chain of attention layers has added up so far, in one of three forms.

    The scores themselves are a table of queries by keys; it costs no operations to add to it. The queries and keys
    that they are the products of take memory linear in the length, and are kept for the backward pass in any case; but
    layer l computes l products. The first form is for few queries at a time, the second for long sequences in
    training, and one table that all layers write into, with another for the gradient, for shorter ones.

    Attributes:
        layers: Attention layers in the chain so far.
        scores: (B, H, T, S) their sum, float32 (float64 for float64); None in the other forms.
        queries: Per layer (B, H, T, P), scaled.
        keys: Per layer (B, K, S, P).
        table: That of the third form.
    """

    layers: int
    scores: Float[Tensor, "B H T S"] | None = None
    queries: tuple[Float[Tensor, "B H T _"], ...] = ()
    keys: tuple[Float[Tensor, "B _ S _"], ...] = ()
    table: ScoreTable | None = None


# Heads of different layers can have different numbers of channels.
Chooser = tuple[Float[Tensor, "B T _"], Float[Tensor, "B S _"]]


class SelectionCarry(NamedTuple):
    """What the selective layers so far have chosen, as the queries and keys whose scores choose.

    Attributes:
        chain: Scaled queries and keys of the selection head of each layer so far, without those that a guide leads.
        used: Those of them that made what the last of these layers hides.
        over_time: Whether that adds up from token to token.
        hidden: (B, S - T) what it hid at the first token of this call; None is nothing.
        pieces: The same as `used` where that layer has a budget of keys, for each piece of this call that it has read:
            one chooser, with the keys that it kept and its own.
    """

    chain: tuple[Chooser, ...] = ()
    used: tuple[Chooser, ...] = ()
    over_time: bool = True
    hidden: Float[Tensor, "B _"] | None = None
    pieces: tuple[Chooser, ...] = ()


class Carry(NamedTuple):
    """All that attention layers hand on in one call of the stack.

    Attributes:
        scores: None begins a chain of residual attention.
        selection: What selective layers have chosen.
        values: (B, T, K, P) the values of the first attention layer; None in front of it, or without value residual.
    """

    scores: ScoreCarry | None = None
    selection: SelectionCarry = SelectionCarry()
    values: Float[Tensor, "B T K P"] | None = None
