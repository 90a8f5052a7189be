"""Small specs that the tests of `hybridgen.hf` build models from."""

from typing import Any

import torch

import hybridgen as hg

_MAMBA1 = {"type": "mamba1", "d_state": 4}
_MAMBA2 = {"type": "mamba2", "d_state": 8, "headdim": 16, "chunk_size": 16}
_ATTENTION = {"type": "attention", "num_heads": 4, "num_heads_kv": 2, "rotary_emb_dim": 8, "qk_norm": "head"}
BLOCKS: dict[str, Any] = {
    "A": {"mixer": _ATTENTION, "mlp": {"d_intermediate": 48}},
    "M": {"mixer": _MAMBA1},
    "B": {"mixer": {**_MAMBA1, "bcdt_norm": "learned", "layer_scale": 0.5}},
    "N": {"mixer": _MAMBA2},
}


def document(pattern: str = "M A N", **parts: Any) -> dict[str, Any]:
    """A language model of 50 tokens in a table of 56 rows; parts replace whole parts of the document."""
    backbone = {"d_model": 32, "blocks": BLOCKS, "pattern": pattern}
    ends = {"input": {"type": "tokens", "vocab_size": 50, "pad_vocab_size_multiple": 8}, "head": {"type": "lm"}}
    return {"backbone": backbone, **ends, **parts}


def language_model(seed: int = 0, dtype: str = "float32", **parts: Any) -> Any:
    """A model of ours of such a document."""
    return hg.build(hg.ModelSpec.model_validate(document(**parts)), seed=seed, dtype=dtype)


def spec_of(**parts: Any) -> hg.ModelSpec:
    """The spec of such a document."""
    return hg.ModelSpec.model_validate(document(**parts))


def image_document(**head: Any) -> dict[str, Any]:
    """A classifier of images of 8 by 8 pixels, into 5 classes."""
    return {
        "backbone": {"d_model": 32, "blocks": BLOCKS, "pattern": "N A"},
        "input": {"type": "patches", "image_size": 8, "patch_size": 4},
        "head": {"type": "classifier", "num_classes": 5, **head},
    }


def ids(rows: int = 2, length: int = 12, seed: int = 0) -> torch.Tensor:
    """Random tokens (rows, length)."""
    return torch.randint(50, (rows, length), generator=torch.Generator().manual_seed(seed))
