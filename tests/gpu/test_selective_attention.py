"""On CUDA, our Triton kernels of selective attention compute what the blocks of PyTorch compute, gradients included."""

import pytest
import torch

from hybridgen.ops import triton
from hybridgen.ops.selective_attention import selective_attention
from tests.ops.test_selective_attention import leaves, make

SCALE = 0.2
# Relative to the largest value in float64 of the same numbers.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 6e-3}
CASES = {
    "plain": {},
    "head": {"selection_head": 3, "protect_bos": False},
    "nothing-hidden": {"selection_head": None, "softcap": 20.0},
    "window": {"window": 70},
    "softcap": {"softcap": 5.0},
    "starts-sinks": {"starts": True, "sinks": True},
    "earlier-slopes": {"earlier": 77, "slopes": True},
    "together": {
        "selection_head": 2, "window": 100, "softcap": 8.0, "sinks": True, "starts": True, "earlier": 33,
        "slopes": True,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _needs_triton():
    if triton.missing("cuda") is not None:
        pytest.skip(triton.missing("cuda"))


def _on_cuda(value, dtype=None):
    if not torch.is_tensor(value):
        return value
    return value.to("cuda", dtype if value.is_floating_point() else None)


def _run(tensors, kwargs, dtype, backend):
    tensors = [_on_cuda(one.detach(), dtype) for one in tensors]
    kwargs = {
        name: _on_cuda(value, torch.float64 if dtype == torch.float64 else None) for name, value in kwargs.items()
    }
    inputs = leaves(tensors, kwargs)
    y, after = selective_attention(*tensors, SCALE, **kwargs, backend=backend)
    generator = torch.Generator("cuda").manual_seed(1)
    weights = [torch.randn(one.shape, device="cuda", generator=generator) for one in (y, after)]
    total = (y.double() * weights[0]).sum() + 0.1 * (after.double() * weights[1]).sum()
    # Where nothing is hidden, nothing depends on what was hidden before.
    grads = torch.autograd.grad(total, inputs, allow_unused=True)
    return y, after, *(torch.zeros_like(x) if grad is None else grad for grad, x in zip(grads, inputs, strict=True))


def _compare(T, options, dtype, **sizes):
    tensors, kwargs = make(T, options, dtype=dtype, **sizes)
    found = _run(tensors, kwargs, dtype, "triton")
    wanted = _run(tensors, kwargs, torch.float64, "torch")
    assert found[0].dtype == dtype
    for part, other in zip(found, wanted, strict=True):
        scale = other.abs().max().clamp(min=1e-3) if other.numel() else 1.0
        assert part.shape == other.shape
        assert not part.numel() or float(((part.double() - other) / scale).abs().max()) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_kernels_and_blocks_agree(name, dtype):
    _compare(259, CASES[name], dtype, P=64)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("P", "V"), [(1, 1), (6, 40), (96, 128), (128, 64)])
def test_widths_of_heads(P, V, dtype):
    _compare(130, CASES["together"], dtype, P=P, V=V)


def test_widest_heads():
    _compare(130, {}, torch.bfloat16, P=256)


@pytest.mark.parametrize(("H", "K"), [(1, 1), (3, 3), (6, 1)])
@pytest.mark.parametrize("T", [1, 17, 1030])
def test_lengths_and_heads(T, H, K):
    _compare(T, {"earlier": 5}, torch.float32, H=H, K=K, P=32)


def test_later_tokens_change_nothing():
    (q, k, v), _ = make(300, {}, dtype=torch.bfloat16, P=64)
    q, k, v = (one.cuda() for one in (q, k, v))
    y, _ = selective_attention(q, k, v, SCALE, backend="triton")
    for tensor in (q, k, v):
        tensor[:, :, 200:] = 100.0
    z, _ = selective_attention(q, k, v, SCALE, backend="triton")
    assert torch.equal(y[:, :, :200], z[:, :, :200])
    assert not torch.equal(y[:, :, 200:], z[:, :, 200:])


def test_compiled_equals_eager(no_shape_checks):
    (q, k, v), _ = make(100, {}, dtype=torch.float32, P=32)
    inputs = [one.cuda().requires_grad_() for one in (q, k, v)]

    def call(*tensors):
        return selective_attention(*tensors, SCALE)[0].square()

    y, z = call(*inputs), torch.compile(call, fullgraph=True)(*inputs)
    assert torch.equal(y, z)
    for grad, other in zip(torch.autograd.grad(y.sum(), inputs), torch.autograd.grad(z.sum(), inputs), strict=True):
        torch.testing.assert_close(grad, other)


def test_auto_takes_the_kernels(monkeypatch):
    taken = []
    from hybridgen.ops.selective_attention import triton_op

    real = triton_op.selective_attention_triton
    monkeypatch.setattr(triton_op, "selective_attention_triton", lambda *given: taken.append(1) or real(*given))
    q = torch.randn(1, 2, 20, 16, device="cuda")
    selective_attention(q, q, q, SCALE)
    selective_attention(q.double(), q.double(), q.double(), SCALE)
    assert taken == [1]
