"""A small hybrid language model with every kind of mixer, for tests of saving and loading."""

from pathlib import Path

import torch

import hybridgen as hg

DOCUMENT = {
    "name": "tiny",
    "input": {"type": "tokens", "vocab_size": 61},
    "backbone": {
        "d_model": 32,
        "blocks": {
            "m": {"mixer": {"type": "mamba2", "d_state": 8, "headdim": 16}},
            "s": {"mixer": {"type": "mamba1", "d_state": 4}},
            "a": {"mixer": {"type": "attention", "num_heads": 4}, "mlp": {"d_intermediate": 128}},
        },
        "pattern": "m s a",
    },
    "head": {"type": "lm"},
}


def spec(**changes) -> hg.ModelSpec:
    return hg.ModelSpec.model_validate({**DOCUMENT, **changes})


def model(seed: int = 0, dtype: str = "float32", **changes) -> torch.nn.Module:
    return hg.build(spec(**changes), seed=seed, dtype=dtype)


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def listing(directory: Path) -> list[str]:
    """Every file below a directory, hidden ones and leftovers included."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir())
