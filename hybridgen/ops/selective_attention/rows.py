"""What single queries hide, for states that can be rolled back, and how many keys stay, for a loss on memory."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from hybridgen.ops.add_norm.plain import upcast
from hybridgen.ops.selective_attention.blocks import Block, Extras, Options, block_scores, blocks_of, hiding


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
    choosers: Sequence[tuple[Float[Tensor, "B T _"], Float[Tensor, "B S _"]]] = (),
) -> Float[Tensor, "B T S"]:
    """What each query takes off the scores of later ones: G, of which F is the sum; see `selective_attention`.

    Without gradient, and as a whole table: for few queries.
    """
    queries, keys = _selector(q, k, selection_head or 0)
    T, S = queries[0].shape[2], keys[0].shape[2]
    extras, options = _arguments(scale, selection_head, protect_bos, starts, window, softcap, slopes, None, choosers)
    whole = Block(0, T, 0, S, S - T)
    G = hiding(block_scores(queries, keys, extras, whole, options), extras, whole, options)
    assert G is not None, "called for what selects only"
    return G


def keys_kept(
    q: Float[Tensor, "B H T P"] | Sequence[Float[Tensor, "B H T _"]],
    k: Float[Tensor, "B K S P"] | Sequence[Float[Tensor, "B _ S _"]],
    tau: float,
    scale: float,
    selection_head: int | None = 0,
    protect_bos: bool = True,
    hidden: Float[Tensor, "B _"] | None = None,
    starts: Int[Tensor, "B T"] | None = None,
    window: int | None = None,
    softcap: float | None = None,
    slopes: Float[Tensor, " H"] | None = None,
    until: Int[Tensor, "B S"] | None = None,
    choosers: Sequence[tuple[Float[Tensor, "B T _"], Float[Tensor, "B S _"]]] = (),
    over_time: bool = True,
) -> Float[Tensor, " B"]:
    """The greatest number of earlier keys that a query of each row still needs: max over i of M_i (arXiv 2410.02703).

    M_i is the sum of 1 - min(F[i, j], tau) / tau over the earlier keys j that query i sees. With gradients; block by
    block, so that one row of F per block is kept for the backward pass. Arguments beside tau: those of
    `selective_attention`.
    """
    queries, keys = _selector(q, k, selection_head or 0)
    T, S, batch = queries[0].shape[2], keys[0].shape[2], queries[0].shape[0]
    extras, options = _arguments(scale, selection_head, protect_bos, starts, window, softcap, slopes, until, choosers)
    F = keys[0].new_zeros(batch, S) if hidden is None else pad(hidden.to(keys[0].dtype), (0, S - hidden.shape[1]))
    most = keys[0].new_zeros(batch)

    def follow(block: Block, F: Tensor) -> tuple[Tensor, Tensor]:
        scores = block_scores(queries, keys, extras, block, options)
        G = hiding(scores, extras, block, options)
        assert G is not None, "called for what selects only"
        rows = F[:, None, block.low : block.high] + G.cumsum(dim=1) - G if over_time else G
        query = torch.arange(block.offset + block.begin, block.offset + block.end, device=F.device)
        earlier = ~scores.unseen & (torch.arange(block.low, block.high, device=F.device) != query[:, None])
        needed = torch.where(earlier, 1 - rows.clamp(max=tau) / tau, 0.0).sum(dim=2)
        return needed.amax(dim=1), F + pad(G.sum(dim=1), (block.low, S - block.high))

    for block in blocks_of(T, S, options):
        found, F = checkpoint(follow, block, F, use_reentrant=False, preserve_rng_state=False)
        most = torch.maximum(most, found)
    return most


def _selector(
    q: Tensor | Sequence[Tensor], k: Tensor | Sequence[Tensor], head: int
) -> tuple[list[Tensor], list[Tensor]]:
    """The queries and keys of one head alone, (B, 1, T, P) and (B, 1, S, P): the others' scores choose nothing."""
    queries, keys = ([x] if isinstance(x, Tensor) else list(x) for x in (q, k))
    H = queries[0].shape[1]
    chosen = [upcast(one[:, head * one.shape[1] // H :][:, :1]) for one in keys]
    return [one[:, head : head + 1] for one in queries], chosen


def _arguments(
    scale: float,
    selection_head: int | None,
    protect_bos: bool,
    starts: Tensor | None,
    window: int | None,
    softcap: float | None,
    slopes: Tensor | None,
    until: Tensor | None,
    choosers: Sequence[tuple[Tensor, Tensor]],
) -> tuple[Extras, Options]:
    """The arguments of the blocks, for what `_selector` returns."""
    head = selection_head or 0
    slope = None if slopes is None else slopes[head : head + 1]
    extras = Extras(None, starts, slope, until, [one for one, _ in choosers], [one for _, one in choosers])
    return extras, Options(scale, None if selection_head is None else 0, protect_bos, window, softcap)
