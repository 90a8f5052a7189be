"""Whole models take our own extension: its operators are counted as PyTorch dispatches them."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hybridgen as hg
from hybridgen.ops import native
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.skipif(not native.LOADED, reason="the extension was not built")

MIXERS = {
    "m": {"mixer": {"type": "mamba1", "d_state": 4}},
    "s": {"mixer": {"type": "mamba2", "d_state": 8, "headdim": 16}},
    "a": {"mixer": {"type": "attention", "num_heads": 4, "num_heads_kv": 2, "d_conv": 4}},
}
PATTERNS = {"mamba1": "m m", "mamba2": "s s", "hybrid": "m s a"}
# Blocks add and normalise once each, and the model once more. Mamba-1's gate is part of its scan.
FORWARD = {
    "mamba1": {"causal_conv1d": 2, "selective_scan": 2, "add_norm": 3},
    "mamba2": {"causal_conv1d": 2, "ssd_scan": 2, "gated_activation": 2, "add_norm": 3},
    "hybrid": {"causal_conv1d": 3, "selective_scan": 1, "ssd_scan": 1, "gated_activation": 1, "add_norm": 4},
}


class _Calls(TorchDispatchMode):
    """Counts the calls of the extension's operators by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "hybridgen_native":
            self.counts[func.name().removeprefix("hybridgen_native::")] += 1
        return func(*args, **(kwargs or {}))


def _counted(function):
    with _Calls() as calls:
        result = function()
    return result, dict(calls.counts)


def _model(name, dtype):
    blocks = {letter: MIXERS[letter] for letter in PATTERNS[name].split()}
    spec = {"backbone": {"d_model": 32, "blocks": blocks, "pattern": PATTERNS[name]}}
    torch.manual_seed(0)
    return hg.build(hg.ModelSpec.model_validate(spec), dtype=dtype), torch.randn(2, 40, 32).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", PATTERNS)
def test_a_forward_pass(name, dtype):
    model, x = _model(name, dtype)
    with torch.no_grad():
        y, calls = _counted(lambda: model(x))
        with hg.use_backend("torch"):
            expected, plain_calls = _counted(lambda: model(x))
    assert calls == FORWARD[name]
    assert plain_calls == {}
    assert_close(y, expected)


@pytest.mark.parametrize("backend", ["auto", "native"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", PATTERNS)
def test_a_step_of_training(name, dtype, backend):
    model, x = _model(name, dtype)
    with hg.use_backend(backend):
        gradients, calls = _counted(lambda: torch.autograd.grad((model(x) ** 2).sum(), list(model.parameters())))
    assert calls == {f"{op}{part}": count for op, count in FORWARD[name].items() for part in ("", "_backward")}
    if dtype == torch.float32:
        with hg.use_backend("torch"):
            expected = torch.autograd.grad((model(x) ** 2).sum(), list(model.parameters()))
        for a, e in zip(gradients, expected, strict=True):
            assert_close(a, e)


# One call per Mamba mixer; its single operators where something stands between them.
DECODING = {
    "mamba1": {"mamba1_step": 2},
    "mamba2": {"mamba2_step": 2},
    "hybrid": {"mamba1_step": 1, "mamba2_step": 1, "causal_conv1d_update": 1, "linear_rows": 2},
}
HOOKED = {
    "mamba1": {"causal_conv1d_update": 2, "selective_state_update": 2, "linear_rows": 8},
    "mamba2": {"causal_conv1d_update": 2, "ssd_update": 2, "linear_rows": 4, "gated_activation": 2},
    "hybrid": {
        "causal_conv1d_update": 3, "selective_state_update": 1, "ssd_update": 1,
        "linear_rows": 8, "gated_activation": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", PATTERNS)
@torch.no_grad()
def test_one_token(name, dtype):
    model, x = _model(name, dtype)
    state = model.init_state(2, 40)
    model(x[:, :20], state=state)
    y, calls = _counted(lambda: model(x[:, 20:21], state=state))
    assert calls == {**DECODING[name], "add_norm": FORWARD[name]["add_norm"]}

    for layer in model.backbone.layers:
        layer.mixer.in_proj.register_forward_hook(lambda *_: None)
    state = model.init_state(2, 40)
    model(x[:, :20], state=state)
    hooked, calls = _counted(lambda: model(x[:, 20:21], state=state))
    assert calls == {**HOOKED[name], "add_norm": FORWARD[name]["add_norm"]}
    assert_close(y, hooked)
