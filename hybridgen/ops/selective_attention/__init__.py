"""Selective attention: tokens hide earlier ones from the tokens after them (arXiv 2410.02703)."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float, Int
from torch import Tensor

from hybridgen.errors import ShapeError
from hybridgen.ops import backends
from hybridgen.ops.backends import BackendName
from hybridgen.ops.native import needs_grad
from hybridgen.ops.selective_attention import triton_op
from hybridgen.ops.selective_attention.blocks import Extras, Options, attend_densely
from hybridgen.ops.selective_attention.native import refusal, selective_attention_native
from hybridgen.ops.selective_attention.registration import selective_attention_op
from hybridgen.ops.shapes import check_shapes
from hybridgen.ops.standard import only_standard


def selective_attention(
    q: Float[Tensor, "B H T P"] | Sequence[Float[Tensor, "B H T _"]],
    k: Float[Tensor, "B K S P"] | Sequence[Float[Tensor, "B _ S _"]],
    v: Float[Tensor, "B K S V"],
    scale: float,
    selection_head: int | None = 0,
    protect_bos: bool = True,
    hidden: Float[Tensor, "B S-T"] | None = None,
    starts: Int[Tensor, "B T"] | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Float[Tensor, " H"] | None = None,
    causal: bool = True,
    slopes: Float[Tensor, " H"] | None = None,
    until: Int[Tensor, "B S"] | None = None,
    choosers: Sequence[tuple[Float[Tensor, "B T _"], Float[Tensor, "B S _"]]] = (),
    over_time: bool = True,
    backend: BackendName = "auto",
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B S"]]:
    """Causal attention whose logits lose what earlier tokens have chosen to hide.

    `softmax(scores - F) v` with `F[i, j] = sum over j < k < i of relu(scores of the selection head[k, j])`, the same F
    for all heads, without parameters. F is zero for a token itself and the one after it. Sources: arXiv 2410.02703,
    section 3, for the formula; the memory beside the arguments is O(S) per batch row and block of queries.

    Args:
        q: Queries; query t stands at key S - T + t and sees no later one. H is a multiple of K; query head h reads key
            head h // (H / K). With several tensors of queries, and of keys, their scores are added.
        k: Keys, those of the queries and S - T earlier ones.
        v: Values.
        scale: Factor on the products q k.
        selection_head: The query head whose scores choose; it attends like the others. None hides nothing, which is
            ordinary attention.
        protect_bos: Whether the first token of a sequence can never be hidden.
        hidden: F of the earlier keys at query 0, as the call before returned it; None is zero.
        starts: Index of the key with which each query's sequence starts, negative if that is no longer there; it
            sees none before it. None is 0 for all.
        window: Keys that a query sees, its own included; None is no limit.
        softcap: Scores become softcap * tanh(score / softcap), before they choose; None is no cap.
        sinks: One more logit per head in the softmax, with no value and never hidden.
        causal: False lets every query see all keys of its sequence; then there are as many keys as queries, and nothing
            can be hidden.
        slopes: Each head's score loses this much per token of distance (arXiv 2108.12409), before the soft cap.
            Without gradient. None is zero.
        until: Index of the query, as a key, from which on a key is no longer seen; None is never.
        choosers: Queries, already scaled, and keys whose scores choose beside the selection head's, under the same soft
            cap, mask and protection.
        over_time: False: only a query's own choices are taken off its scores, and nothing adds up.
        backend: `auto`, `torch`, `native` or `triton`.

    Returns:
        The output in q's dtype, and F of all keys for the query after the last, float32 (float64 for float64).

    Raises:
        ShapeError: The tensors do not fit each other, or there is no such head.
        BackendUnavailableError: The backend asked for by name cannot do this call.
    """
    queries, keys = ([x] if isinstance(x, Tensor) else list(x) for x in (q, k))
    names = ["k"] if isinstance(k, Tensor) else [f"k[{index}]" for index in range(len(keys))]
    beside = {"hidden": hidden, "starts": starts, "sinks": sinks, "slopes": slopes, "until": until}
    _check(queries, dict(zip(names, keys, strict=True)), v, beside, choosers)
    H, T, S = queries[0].shape[1], queries[0].shape[2], keys[0].shape[2]
    chooser_q, chooser_k = [one for one, _ in choosers], [one for _, one in choosers]
    if not causal and (selection_head is not None or chooser_q or S != T or window is not None):
        raise ShapeError("selective_attention: causal=False needs as many keys as queries, and no selection or window")
    if selection_head is not None and not 0 <= selection_head < H:
        raise ShapeError(f"selective_attention: selection_head must be 0 ... {H - 1}; given {selection_head}")
    options = Options(scale, selection_head, protect_bos, window, softcap, causal, over_time)
    extras = Extras(sinks, starts, slopes, until, chooser_q, chooser_k)
    refusals = {
        "native": lambda: refusal(queries, keys, v, hidden, extras),
        "triton": lambda: triton_op.refusal(queries, keys, v, extras, options),
    }
    taken = backends.pick("selective_attention", backend, v.device, refusals)
    if taken == "native":
        return selective_attention_native(queries, keys, v, hidden, extras, options)
    if taken == "triton":
        return triton_op.selective_attention_triton(queries[0], keys[0], v, hidden, extras, options)
    if only_standard() and len(queries) == 1 and until is None:
        dense = attend_densely(queries[0], keys[0], v, hidden, extras, options, None)
        return dense.y, dense.hidden
    recorded = needs_grad(*queries, *keys, v, hidden, sinks, *chooser_q, *chooser_k)
    y, F, _, _ = selective_attention_op(
        queries, keys, v, sinks, hidden, starts, slopes, until, chooser_q, chooser_k, *options, recorded
    )
    return y, F


def _check(
    queries: Sequence[Tensor],
    keys: Mapping[str, Tensor],
    v: Tensor,
    beside: Mapping[str, Tensor | None],
    choosers: Sequence[tuple[Tensor, Tensor]],
) -> None:
    """Raises a ShapeError if the tensors do not fit each other."""
    batch, H, T, _ = queries[0].shape
    S = next(iter(keys.values())).shape[2]
    shapes = {"hidden": (batch, S - T), "starts": (batch, T), "sinks": (H,), "slopes": (H,), "until": (batch, S)}
    expected: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {"v": (v, (batch, v.shape[1], S, v.shape[3]))}
    expected |= {name: (tensor, shapes[name]) for name, tensor in beside.items()}
    for (name, k), q in zip(keys.items(), queries, strict=True):
        expected[name.replace("k", "q")] = (q, (batch, H, T, q.shape[3]))
        expected[name] = (k, (batch, k.shape[1], S, q.shape[3]))
    for number, (chooser_q, chooser_k) in enumerate(choosers):
        expected[f"choosers[{number}][0]"] = (chooser_q, (batch, T, chooser_q.shape[2]))
        expected[f"choosers[{number}][1]"] = (chooser_k, (batch, S, chooser_q.shape[2]))
    check_shapes("selective_attention", expected)
    for name, tensor in (("v", v), *keys.items()):
        if tensor.shape[1] < 1 or H % tensor.shape[1]:
            raise ShapeError(
                f"selective_attention: {name} has {tensor.shape[1]} heads, which must divide the {H} heads of q"
            )
    if S < T:
        raise ShapeError(f"selective_attention: there are {T} queries but {S} keys; every query needs a key of its own")
