"""Activation checkpointing: layers whose activations are computed again in the backward pass instead of kept.

Sources: arXiv 1604.06174 (recomputation), 2205.05198 (selective recomputation).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from hybridgen.errors import HybridgenError, UnsupportedError
from hybridgen.layers.mixers.residual_attention import ResidualAttention
from hybridgen.model.model import check_is_hybrid

Checkpointing = Literal["none", "selective", "full"]
KINDS: tuple[str, ...] = get_args(Checkpointing)
_PRODUCTS = {
    "aten": (
        "mm", "addmm", "bmm", "baddbmm", "linear", "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_attention_math",
    ),
    "hybridgen_native": ("selective_attention",),
    "hybridgen": ("selective_attention", "selective_attention_triton"),
}  # fmt: skip
"""Operators whose results selective checkpointing keeps: matrix products and attention."""


def checkpoint_layers(model: nn.Module, kind: Checkpointing = "full") -> None:
    """Makes training keep less of each layer, and compute the rest again in the backward pass.

    It holds for every call with gradients and without a state, until it is called again. What is computed stays the
    same, random numbers included.

    Args:
        model: From `hg.build` or `hg.load`; changed in place.
        kind: `full`: the layers' inputs are kept alone. `selective`: so are the results of matrix products and of
            attention, which cost most to compute; scans, convolutions, norms and gates run again. `none`: everything.

    Raises:
        HybridgenError: If there is no such kind, or the model is none of hybridgen's.
        UnsupportedError: If residual attention holds one table of scores (`training: table`), which no layer can
            add to twice.
    """
    if kind not in KINDS:
        raise HybridgenError(f"checkpointing must be one of {', '.join(KINDS)}; given {kind!r}")
    backbone = check_is_hybrid(model).backbone
    mixers = [mixer for mixer in backbone.modules() if isinstance(mixer, ResidualAttention)]
    if kind != "none" and any(mixer.residual.training == "table" for mixer in mixers):
        raise UnsupportedError(
            "layers that are computed again cannot share one table of scores; write residual_attn: {training: products}"
        )
    for mixer in mixers:
        mixer.runs_again = kind != "none"
    backbone.run_layer = {"none": None, "selective": _run_selectively, "full": _run_again}[kind]


def _run_again(layer: nn.Module, *arguments: Any) -> Any:
    return checkpoint(layer, *arguments, use_reentrant=False)


def _run_selectively(layer: nn.Module, *arguments: Any) -> Any:
    contexts: Callable[[], Any] = partial(create_selective_checkpoint_contexts, _policy)
    return checkpoint(layer, *arguments, use_reentrant=False, context_fn=contexts)


def _policy(_context: Any, op: Any, *_arguments: Any, **_options: Any) -> CheckpointPolicy:
    namespace, _, name = op.name().partition("::") if isinstance(op, torch._ops.OpOverload) else ("", "", "")
    is_product = name.partition(".")[0] in _PRODUCTS.get(namespace, ())
    return CheckpointPolicy.MUST_SAVE if is_product else CheckpointPolicy.PREFER_RECOMPUTE
