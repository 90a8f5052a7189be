"""Models that Liger's kernels are put into, and what they compute with them and without."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

import hybridgen as hg
from hybridgen.integrations import liger

VOCABULARY = 40
ROTARY = {"type": "attention", "num_heads": 4, "num_heads_kv": 2, "rotary_emb_dim": 8}
MLP = {"d_intermediate": 24, "multiple_of": 8}
SSM = {"type": "mamba2", "d_state": 8, "headdim": 8, "chunk_size": 8}


def _dense(mixer: dict[str, Any], mlp: dict[str, Any], **backbone: Any) -> dict[str, Any]:
    return {"d_model": 32, "blocks": {"a": {"mixer": mixer, "mlp": mlp}}, "pattern": "a a", **backbone}


STACKS: dict[str, dict[str, Any]] = {
    "transformer": _dense(ROTARY, MLP),
    "partial-rotary": _dense({**ROTARY, "rotary_emb_dim": 4, "qk_norm": "head"}, MLP, norm={"unit_offset": True}),
    "residual": _dense({**ROTARY, "qk_norm": "full"}, MLP, norm_placement="residual"),
    "sandwich": _dense(ROTARY, {**MLP, "gate_activation": "gelu_tanh"}, norm_placement="sandwich"),
    "layer-norm": _dense(ROTARY, {**MLP, "bias": True}, norm={"type": "layer"}),
    "hybrid": {
        "d_model": 32,
        "blocks": {"m": {"mixer": SSM}, "a": {"mixer": ROTARY, "mlp": MLP}},
        "pattern": "m a m",
    },
}
"""Every placement and kind of norm, both gates, whole and partial rotation, and Mamba-2 beside attention."""
REPLACED = {
    "transformer": (5, 2, 2),
    "partial-rotary": (9, 2, 2),
    "residual": (8, 2, 2),
    "sandwich": (9, 2, 2),
    "layer-norm": (5, 2, 2),
    "hybrid": (5, 1, 1),
}
"""How many norms, MLPs and rotations of a stack Liger takes."""


def document(stack: dict[str, Any], **head: Any) -> dict[str, Any]:
    """Returns the document of a language model."""
    return {
        "input": {"type": "tokens", "vocab_size": VOCABULARY, "pad_vocab_size_multiple": 1},
        "backbone": stack,
        "head": {"type": "lm", **head},
    }


def build(name: str, device: str = "cpu", dtype: str = "float32") -> nn.Module:
    """Makes a model whose norms and biases are not at their starting values."""
    model = hg.build(hg.ModelSpec.model_validate(document(STACKS[name])), device=device, dtype=dtype)
    scatter(model)
    return model


def scatter(model: nn.Module) -> None:
    """Moves every parameter a little, so that none is 0 or 1 as it starts."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise.to(parameter.device, parameter.dtype), alpha=0.1)


def ids(length: int = 6) -> Tensor:
    """Returns two rows of tokens."""
    return torch.randint(0, VOCABULARY, (2, length), generator=torch.Generator().manual_seed(0))


def left_padding(length: int = 6) -> Tensor:
    """Returns a mask of two rows, the second of which begins later."""
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[1, :2] = 0
    return mask


def outcome(model: nn.Module, device: str, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns logits, and the gradient of each parameter."""
    model.zero_grad()
    logits = model(ids().to(device), **options)
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(logits.shape, generator=generator).to(device)
    if "mask" in options:
        weights = weights * options["mask"][..., None]
    (logits.float() * weights).sum().backward()
    return logits.detach(), {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def with_liger(model: nn.Module, **options: bool) -> tuple[nn.Module, liger.Report]:
    """Returns a copy that runs Liger's kernels."""
    changed = copy.deepcopy(model)
    return changed, liger.apply(changed, **options)
