"""The calls of mamba-ssm's and causal-conv1d's kernels, against stand-ins that have their layouts and refusals."""

import pytest
import torch

from hybridgen.errors import BackendUnavailableError, UnsupportedError
from hybridgen.ops import kernels
from hybridgen.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from hybridgen.ops.selective_scan import mamba_ssm, selective_scan, selective_state_update
from hybridgen.ops.ssd import ssd_scan, ssd_update
from tests.helpers.fake_kernels import FakeKernels
from tests.helpers.op_cases import random_resets
from tests.helpers.tolerances import assert_close

FLOAT, HALF = torch.float32, torch.bfloat16
DTYPES = pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=["float32", "bfloat16"])
BATCH, T = 2, 21


@pytest.fixture
def fake(monkeypatch):
    yield FakeKernels(monkeypatch)
    kernels.load_kernel.cache_clear()


@pytest.fixture
def rand():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape, dtype=FLOAT: torch.randn(shape, generator=generator).to(dtype)


def _conv(rand, dtype=FLOAT, C=16, K=4, activation="silu"):
    return {
        "x": rand(BATCH, T, C, dtype=dtype),
        "weight": rand(C, K, dtype=dtype),
        "bias": rand(C, dtype=dtype),
        "activation": activation,
    }


def _scan(rand, dtype=FLOAT, G=2, N=4, **more):
    return {
        "u": rand(BATCH, T, 6, dtype=dtype),
        "dt": rand(BATCH, T, 6, dtype=dtype),
        "A": -rand(6, N).abs(),
        "B": rand(BATCH, T, G, N, dtype=dtype),
        "C": rand(BATCH, T, G, N, dtype=dtype),
        **more,
    }


def _ssd(rand, dtype=FLOAT, G=2, **more):
    return {
        "x": rand(BATCH, T, 4, 3, dtype=dtype),
        "dt": rand(BATCH, T, 4, dtype=dtype),
        "A": -rand(4).abs(),
        "B": rand(BATCH, T, G, 5, dtype=dtype),
        "C": rand(BATCH, T, G, 5, dtype=dtype),
        **more,
    }


def _assert_kernel_equals_torch(op, arguments):
    kernel, plain = op(**arguments, backend="mamba_ssm"), op(**arguments, backend="torch")
    for a, e in zip(kernel, plain, strict=True):
        assert a.dtype == e.dtype
        assert_close(a, e)


@DTYPES
@pytest.mark.parametrize("form", ["fresh", "state", "packed", "strided", "odd-channels"])
@pytest.mark.parametrize("K", [2, 4])
def test_conv(fake, rand, dtype, form, K):
    arguments = _conv(rand, dtype, C=13 if form == "odd-channels" else 16, K=K, activation="silu")
    if form == "state":
        arguments["initial_state"] = rand(BATCH, 16, K - 1, dtype=dtype)
    if form == "packed":
        arguments["resets"] = random_resets(T, BATCH)
    if form == "strided":
        arguments["x"] = rand(BATCH, T, 16 + 5, dtype=dtype)[..., 3:19]
    _assert_kernel_equals_torch(causal_conv1d, arguments)
    assert fake.calls == {"causal_conv1d_fn": 1}


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_conv_shorter_than_its_state(fake, rand, tokens):
    arguments = _conv(rand, activation="identity")
    arguments["x"] = arguments["x"][:, :tokens]
    _assert_kernel_equals_torch(causal_conv1d, arguments | {"initial_state": rand(BATCH, 16, 3)})
    _assert_kernel_equals_torch(causal_conv1d, arguments | {"resets": torch.ones(BATCH, tokens, dtype=torch.bool)})


@DTYPES
def test_conv_update(fake, rand, dtype):
    arguments = _conv(rand, dtype)
    arguments["x"] = arguments["x"][:, 0]
    state, plain_state = (t.clone() for t in [rand(BATCH, 16, 3, dtype=dtype)] * 2)
    y = causal_conv1d_update(state=state, **arguments, backend="mamba_ssm")
    assert_close(y, causal_conv1d_update(state=plain_state, **arguments, backend="torch"))
    assert_close(state, plain_state)


@DTYPES
@pytest.mark.parametrize("gate", [None, "silu", "gelu"])
@pytest.mark.parametrize("extras", [False, True], ids=["bare", "D-and-bias"])
def test_scan(fake, rand, dtype, gate, extras):
    arguments = _scan(rand, dtype)
    if gate:
        arguments |= {"z": rand(BATCH, T, 6, dtype=dtype), "gate_activation": gate}
    if extras:
        arguments |= {"D": rand(6, dtype=dtype), "dt_bias": rand(6, dtype=dtype)}
    _assert_kernel_equals_torch(selective_scan, arguments)
    assert (fake.last["selective_scan_fn"]["z"] is not None) == (gate == "silu")


@DTYPES
@pytest.mark.parametrize("gate", [None, "silu", "gelu"])
@pytest.mark.parametrize("tokens", [1, 5, T], ids=str)
def test_scan_continues_a_state_that_the_kernel_does_not_know(fake, rand, monkeypatch, dtype, gate, tokens):
    monkeypatch.setattr(mamba_ssm, "_CARRY_BLOCK", 5)
    arguments = _scan(rand, dtype, D=rand(6), dt_bias=rand(6), initial_state=rand(BATCH, 6, 4))
    if gate:
        arguments |= {"z": rand(BATCH, T, 6, dtype=dtype), "gate_activation": gate}
    for name in {"u", "dt", "B", "C", "z"} & arguments.keys():
        arguments[name] = arguments[name][:, :tokens]
    _assert_kernel_equals_torch(selective_scan, arguments)
    assert fake.calls == {"selective_scan_fn": 1}


def test_scan_continues_a_state_with_its_gradient(fake, rand):
    arguments = _scan(rand, D=rand(6), z=rand(BATCH, T, 6), dt_bias=rand(6), initial_state=rand(BATCH, 6, 4))
    inputs = [t.requires_grad_() for t in arguments.values()]
    found, expected = (
        torch.autograd.grad((selective_scan(**arguments, backend=name)[0] ** 2).sum(), inputs)
        for name in ("mamba_ssm", "torch")
    )
    for a, e in zip(found, expected, strict=True):
        assert_close(a, e)


def test_scan_refuses_the_gradient_that_the_kernel_drops(fake, rand):
    arguments = _scan(rand)
    arguments["u"].requires_grad_()
    y, state = selective_scan(**arguments, backend="mamba_ssm")
    (gradient,) = torch.autograd.grad(y.sum(), arguments["u"], retain_graph=True)
    (expected,) = torch.autograd.grad(selective_scan(**arguments, backend="torch")[0].sum(), arguments["u"])
    assert_close(gradient, expected)
    with pytest.raises(UnsupportedError, match="drops the gradient of the final state; take backend='torch'"):
        state.sum().backward()


@DTYPES
@pytest.mark.parametrize("gate", [None, "silu", "gelu"])
@pytest.mark.parametrize("extras", [False, True], ids=["bare", "D-and-bias"])
def test_scan_update(fake, rand, dtype, gate, extras):
    arguments = _scan(rand, dtype)
    if gate:
        arguments |= {"z": rand(BATCH, T, 6, dtype=dtype)}
    arguments = {name: t[:, 0] if t.shape[:2] == (BATCH, T) else t for name, t in arguments.items()}
    if extras:
        arguments |= {"D": rand(6), "dt_bias": rand(6)}
    arguments["gate_activation"] = gate or "silu"
    state, plain_state = (t.clone() for t in [rand(BATCH, 6, 4)] * 2)
    y = selective_state_update(state, **arguments, backend="mamba_ssm")
    assert_close(y, selective_state_update(plain_state, **arguments, backend="torch"))
    assert_close(state, plain_state)


@DTYPES
@pytest.mark.parametrize("form", ["bare", "everything", "packed", "packed-state", "limit"])
def test_ssd(fake, rand, dtype, form):
    arguments = _ssd(rand, dtype)
    if form != "bare":
        arguments |= {"D": rand(4, 3), "dt_bias": rand(4), "chunk_size": 7}
    if form in ("everything", "packed-state"):
        arguments |= {"initial_state": rand(BATCH, 4, 3, 5)}
    if form.startswith("packed"):
        arguments |= {"resets": random_resets(T, BATCH)}
    if form == "limit":
        arguments |= {"dt_limit": (0.3, 0.9)}
    _assert_kernel_equals_torch(ssd_scan, arguments)
    assert fake.calls == {"mamba_chunk_scan_combined": 1}


@DTYPES
@pytest.mark.parametrize("limit", [(0.0, None), (0.0, float("inf")), (0.3, 0.9)], ids=str)
@pytest.mark.parametrize("D", [None, (4,), (4, 3)], ids=str)
def test_ssd_update(fake, rand, dtype, limit, D):
    arguments = {name: t if name == "A" else t[:, 0] for name, t in _ssd(rand, dtype).items()}
    arguments |= {"dt_limit": limit, "dt_bias": None if D is None else rand(4), "D": None if D is None else rand(*D)}
    state, plain_state = (t.clone() for t in [rand(BATCH, 4, 3, 5)] * 2)
    y = ssd_update(state, **arguments, backend="mamba_ssm")
    assert_close(y, ssd_update(plain_state, **arguments, backend="torch"))
    assert_close(state, plain_state)
    # The kernel has a faster form for numbers that all channels of a head share, and knows them by their stride.
    assert fake.last["selective_state_update"]["dt_bias"].stride(-1) == 0


def _wide(arguments):
    return {name: t.double() if torch.is_tensor(t) else t for name, t in arguments.items()}


REFUSED = {
    "conv-width": (causal_conv1d, lambda r: _conv(r, K=5), "its width K is 2, 3 or 4, but weight has 5 taps"),
    "conv-activation": (causal_conv1d, lambda r: _conv(r, activation="gelu"), "its activations are silu and identity"),
    "conv-float64": (causal_conv1d, lambda r: _wide(_conv(r)), "it computes in float32, float16 and bfloat16"),
    "conv-bias-dtype": (causal_conv1d, lambda r: _conv(r) | {"bias": r(16, dtype=HALF)}, "bias and weight in one"),
    "conv-odd-packed": (
        causal_conv1d,
        lambda r: _conv(r, C=13) | {"resets": random_resets(T)},
        "its channels are a multiple of 8, but x has 13",
    ),
    "conv-packed-state": (
        causal_conv1d,
        lambda r: _conv(r) | {"resets": random_resets(T), "initial_state": r(BATCH, 16, 3)},
        "packed sequences or an initial state, not both",
    ),
    "conv-empty": (causal_conv1d, lambda r: _conv(r) | {"x": r(BATCH, 0, 16)}, "at least one token"),
    "scan-packed": (selective_scan, lambda r: _scan(r, resets=random_resets(T)), "it has no packed sequences"),
    "scan-float64": (selective_scan, lambda r: _wide(_scan(r)), "but was given torch.float64"),
    "scan-mixed": (
        selective_scan,
        lambda r: _scan(r) | {"dt": r(BATCH, T, 6, dtype=HALF)},
        "but was given torch.bfloat16, torch.float32",
    ),
    "scan-large-state": (selective_scan, lambda r: _scan(r, N=257), "its state size N is at most 256, but A has 257"),
    "ssd-float64": (ssd_scan, lambda r: _wide(_ssd(r)), "but was given torch.float64"),
    "ssd-empty": (
        ssd_scan,
        lambda r: {name: t if name == "A" else t[:, :0] for name, t in _ssd(r).items()},
        "at least one token",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_calls_beyond_a_kernel_fall_back_silently_and_raise_when_insisted(fake, rand, name):
    op, make, reason = REFUSED[name]
    arguments = make(rand)
    for a, e in zip(op(**arguments), op(**arguments, backend="torch"), strict=True):
        assert_close(a, e)
    assert fake.calls == {}
    with pytest.raises(BackendUnavailableError) as error:
        op(**arguments, backend="mamba_ssm")
    assert reason in str(error.value)
    assert str(error.value).endswith("; backend='torch' or 'auto' can")


def test_updates_that_need_a_gradient_fall_back(fake, rand):
    conv = _conv(rand)
    conv["x"] = conv["x"][:, 0].requires_grad_()
    assert causal_conv1d_update(state=rand(BATCH, 16, 3), **conv).requires_grad
    scan = {name: t if name == "A" else t[:, 0].requires_grad_() for name, t in _scan(rand).items()}
    assert selective_state_update(rand(BATCH, 6, 4), **scan).requires_grad
    ssd = {name: t if name == "A" else t[:, 0].requires_grad_() for name, t in _ssd(rand).items()}
    assert ssd_update(rand(BATCH, 4, 3, 5), **ssd).requires_grad
    assert fake.calls == {}
    with pytest.raises(BackendUnavailableError, match=r"it has no gradient; call it under torch\.no_grad\(\)"):
        ssd_update(rand(BATCH, 4, 3, 5), **ssd, backend="mamba_ssm")


def test_auto_takes_the_kernels_where_they_can(fake, rand):
    selective_scan(**_scan(rand))
    causal_conv1d(**_conv(rand))
    ssd_scan(**_ssd(rand))
    assert fake.calls == {"selective_scan_fn": 1, "causal_conv1d_fn": 1, "mamba_chunk_scan_combined": 1}


def test_compiled_functions_break_their_graph_around_a_kernel(fake, rand, no_shape_checks):
    torch.compiler.reset()
    scan = torch.compile(lambda arguments: selective_scan(**arguments)[0] + 1, backend="eager")
    arguments = _scan(rand)
    assert_close(scan(arguments), selective_scan(**arguments, backend="torch")[0] + 1)
    assert fake.calls == {"selective_scan_fn": 1}
