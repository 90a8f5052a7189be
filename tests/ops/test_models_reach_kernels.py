"""Whole models take the CUDA kernels wherever those can do the call: counted with stand-ins, proved by numbers."""

import pytest
import torch

import hybridgen as hg
from hybridgen.ops import kernels
from tests.helpers.fake_kernels import FakeKernels
from tests.helpers.tolerances import assert_close

SPEC = {
    "backbone": {
        "d_model": 32,
        "blocks": {
            "m": {"mixer": {"type": "mamba1", "d_state": 4}},
            "s": {"mixer": {"type": "mamba2", "d_state": 8, "headdim": 16}},
            "a": {"mixer": {"type": "attention", "num_heads": 4, "num_heads_kv": 2, "d_conv": 4}},
        },
        "pattern": "m s a",
    }
}
SCANS = {"causal_conv1d_fn": 3, "selective_scan_fn": 1, "mamba_chunk_scan_combined": 1}


@pytest.fixture
def fake(monkeypatch):
    yield FakeKernels(monkeypatch)
    kernels.load_kernel.cache_clear()


@torch.no_grad()
def test_a_model_reaches_every_kernel(fake):
    model = hg.build(hg.ModelSpec.model_validate(SPEC))
    x = torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(0))
    with hg.use_backend("torch"):
        expected = model(x)
    assert fake.calls == {}

    def calls(y, first, last):
        assert_close(y, expected[:, first:last])
        counted, fake.calls = fake.calls, {}
        return counted

    assert calls(model(x), 0, 20) == SCANS
    state = model.init_state(2, 20)
    assert calls(model(x[:, :11], state=state), 0, 11) == SCANS
    # A real continuation, of several tokens.
    assert calls(model(x[:, 11:18], state=state), 11, 18) == SCANS
    for t in (18, 19):
        # Both versions of Mamba share the kernel of one step of the recurrence; attention convolves one more token.
        assert calls(model(x[:, t : t + 1], state=state), t, t + 1) == {
            "causal_conv1d_update": 3,
            "selective_state_update": 2,
        }


def test_training_reaches_the_kernels(fake):
    model = hg.build(hg.ModelSpec.model_validate(SPEC))
    x = torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(0))
    found = torch.autograd.grad((model(x) ** 2).sum(), list(model.parameters()))
    assert fake.calls == SCANS
    with hg.use_backend("torch"):
        expected = torch.autograd.grad((model(x) ** 2).sum(), list(model.parameters()))
    for a, e in zip(found, expected, strict=True):
        assert_close(a, e)
