"""Attention that adds its scores to a table, for inference in pieces of a few hundred queries."""

from jaxtyping import Float
from torch import Tensor

from hybridgen.ops import backends
from hybridgen.ops.selective_attention.blocks import Extras, Options, attend_densely
from hybridgen.ops.selective_attention.native import selective_attention_table_native, table_refusal


def attend_with_table(
    q: Float[Tensor, "B H T P"],
    k: Float[Tensor, "B K S P"],
    v: Float[Tensor, "B K S V"],
    hidden: Float[Tensor, "B S-T"] | None,
    extras: Extras,
    options: Options,
    before: Float[Tensor, "B H T S"] | None,
    share: float,
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B S"], Float[Tensor, "B H T S"]]:
    """Attends with `share` times the sum of its scores and those of earlier layers; without gradient.

    Args:
        q: Queries, at the last T of S keys.
        k: Keys.
        v: Values.
        hidden: F of the earlier keys; None is zero.
        extras: No choosers.
        options: As for `selective_attention`, and over_time.
        before: What an earlier call returned: it is used up, and its memory may be that of the sum.
        share: Factor on the sum of both.

    Returns:
        The output, F after the last query, and the sum of the scores before bias, soft cap, mask and selection, which
        is undefined where a key stands behind the query.
    """
    arguments = (q, k, v, hidden, extras, options, before, share)
    if backends.pick("selective_attention", "auto", v.device, {"native": table_refusal}, *arguments) == "native":
        return selective_attention_table_native(*arguments)
    found = attend_densely(*arguments)
    return found.y, found.hidden, found.total
