"""The models that the tests of `hybridgen.hf` run over: one small document per kind of layer or end."""

from typing import Any

import torch

import hybridgen as hg
from hybridgen import hf
from hybridgen.model.model import HybridModel

VOCABULARY = 48

_ATTENTION = {"type": "attention", "num_heads": 4, "num_heads_kv": 2, "rotary_emb_dim": 4}
_MAMBA1 = {"type": "mamba1", "d_state": 4}
_MAMBA2 = {"type": "mamba2", "d_state": 8, "headdim": 8, "chunk_size": 8, "dt_limit": [0.01, 0.05]}
_BLOCKS: dict[str, Any] = {
    "a": {"mixer": _ATTENTION, "mlp": {"d_intermediate": 24, "multiple_of": 8}},
    "b": {"mixer": _ATTENTION},
    "c": {"mixer": {**_ATTENTION, "d_conv": 3}},
    "f": {"mlp": {"d_intermediate": 24, "multiple_of": 8}},
    "m": {"mixer": _MAMBA1},
    "n": {"mixer": _MAMBA2},
    "s": {"mixer": {**_ATTENTION, "selective": True}},
    "w": {"mixer": {**_ATTENTION, "window": 5}},
}


def _document(pattern: str, tokens: dict[str, Any] | None = None, head: Any = None, **backbone: Any) -> dict[str, Any]:
    blocks = {name: _BLOCKS[name] for name in dict.fromkeys(pattern.split())}
    return {
        "backbone": {"d_model": 16, "blocks": blocks, "pattern": pattern, **backbone},
        "input": {"type": "tokens", "vocab_size": VOCABULARY, "pad_vocab_size_multiple": 1, **(tokens or {})},
        "head": {"type": "lm", **(head or {})},
    }


KINDS: dict[str, dict[str, Any]] = {
    "transformer": _document("a a", norm_placement="sandwich"),
    "mamba1": _document("m m"),
    "mamba2": _document("n n"),
    "hybrid2": _document("n a n", head={"logit_scale": 0.5, "logit_softcap": 6.0}),
    "hybrid1-window": _document("m w f"),
    "selective": _document("s b"),
    "residual": _document("b b", residual_attn=True),
    "values": _document("b m b", value_residual="learned"),
    "conv": _document("c b"),
    "memory": _document("b n", tokens={"memory_tokens": 3}),
    "memory-attention": _document("b f", tokens={"memory_tokens": 2}, head={"tie_embeddings": False}),
}
CROPPABLE = ("transformer", "residual", "memory-attention")
"""The kinds of which tokens can be taken back: only keys and values, without a window."""
TIGHT = {"rtol": 1e-9, "atol": 1e-9}
PLAIN = ("transformer", "mamba1", "hybrid2", "hybrid1-window")
"""Kinds enough for what no layer has a hand in."""


def plain(kind: str, dtype: str = "float64") -> HybridModel:
    """Builds a model of ours, with weights wide enough that every layer matters."""
    model = hg.build(hg.ModelSpec.model_validate(KINDS[kind]), dtype=dtype).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.ndim == 2 and "A_log" not in name:
                std = 1.0 if "embedding" in name or "memory" in name else parameter.shape[1] ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model


def wrapped(kind: str, dtype: str = "float64", attention: str | None = None) -> hf.HybridgenForCausalLM:
    """Makes the model of transformers of a kind, with the weights of `plain`."""
    model = hf.wrap(plain(kind, dtype))
    if attention is not None:
        model.set_attn_implementation(attention)
    return model


def ids(length: int, batch: int = 2, seed: int = 3) -> torch.Tensor:
    """Draws token ids (batch, length)."""
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))
