"""Models that pictures are made of."""

from random import Random
from typing import Any

from hybridgen.spec import ModelSpec, load_spec
from tests.cli.conftest import CONFIGS
from tests.helpers.browser import browser, chromium  # noqa: F401

ATTENTION = {"type": "attention", "num_heads": 4}


def shipped(name: str) -> ModelSpec:
    """A shipped model."""
    return load_spec(CONFIGS / f"{name}.yaml")


def stack(pattern: object, **settings: Any) -> ModelSpec:
    """A small language model with Mamba-2 (m), Mamba-1 (s), attention (a, with an MLP) and MLPs alone (f)."""
    blocks = {
        "m": {"mixer": {"type": "mamba2", "headdim": 32}},
        "s": {"mixer": {"type": "mamba1"}},
        "a": {"mixer": ATTENTION, "mlp": {"d_intermediate": 256}},
        "f": {"mlp": {"d_intermediate": 256, "gated": False}},
    }
    backbone = {"d_model": 64, "blocks": blocks, "pattern": pattern, **settings}
    return ModelSpec.model_validate(
        {"input": {"type": "tokens", "vocab_size": 100}, "backbone": backbone, "head": {"type": "lm"}}
    )


def irregular(count: int = 100) -> ModelSpec:
    """A stack without any order worth a bracket, whose attention layers hand on scores and values."""
    names = ["a", *Random(3).choices("msaf", k=count - 1)]
    return stack(names, residual_attn=True, value_residual="learned")
