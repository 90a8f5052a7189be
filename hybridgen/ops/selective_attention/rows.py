"""What single queries hide, for states that can be rolled back."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hybridgen.ops.add_norm.plain import upcast
from hybridgen.ops.selective_attention.blocks import Block, Extras, Options, block_scores, hiding


@torch.no_grad()
def hidden_by(
    q: Float[Tensor, "B H T P"] | Sequence[Float[Tensor, "B H T _"]],
    k: Float[Tensor, "B K S P"] | Sequence[Float[Tensor, "B _ S _"]],
    scale: float,
    selection_head: int | None = 0,
    protect_bos: bool = True,
    starts: Int[Tensor, "B T"] | None = None,
    window: int | None = None,
    softcap: float | None = None,
    slopes: Float[Tensor, " H"] | None = None,
    until: Int[Tensor, "B S"] | None = None,
    choosers: Sequence[tuple[Float[Tensor, "B T _"], Float[Tensor, "B S _"]]] = (),
) -> Float[Tensor, "B T S"]:
    """What each query takes off the scores of later ones: G, of which F is the sum; see `selective_attention`.

    Without gradient, and as a whole table: for few queries.
    """
    queries, keys = ([x] if isinstance(x, Tensor) else list(x) for x in (q, k))
    (_, H, T, _), S = queries[0].shape, keys[0].shape[2]
    # The selection head alone: the others' scores choose nothing.
    head = selection_head or 0
    queries = [one[:, head : head + 1] for one in queries]
    keys = [upcast(one[:, head * one.shape[1] // H :][:, :1]) for one in keys]
    chooser_q, chooser_k = [one for one, _ in choosers], [one for _, one in choosers]
    slope = None if slopes is None else slopes[head : head + 1]
    extras = Extras(None, starts, slope, until, chooser_q, chooser_k)
    options = Options(scale, None if selection_head is None else 0, protect_bos, window, softcap)
    whole = Block(0, T, 0, S, S - T)
    G = hiding(block_scores(queries, keys, extras, whole, options), extras, whole, options)
    assert G is not None, "called for what selects only"
    return G
