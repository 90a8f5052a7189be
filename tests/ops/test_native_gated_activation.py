"""The gated activation's own kernels against the reference, and what they promise to autograd and torch.compile."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from hybridgen.errors import BackendUnavailableError, ShapeError, UnsupportedError
from hybridgen.ops import native
from hybridgen.ops.activations import ACTIVATIONS
from hybridgen.ops.gated_activation import gated_activation, gated_activation_two_way
from hybridgen.ops.gated_activation.reference import gated_activation_reference, gated_activation_two_way_reference
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.skipif(not native.LOADED, reason="the extension was not built")

OPS = native.OPS
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SILU = 0


def randn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return (2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def halves(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two tensors that lie side by side in one, as in a packed projection."""
    packed = randn(*shape[:-1], 2 * shape[-1], dtype=dtype, seed=seed)
    value, gate = packed.chunk(2, dim=-1)
    return value, gate


def gradients(function, tensors, grad: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    return torch.autograd.grad(function(*leaves), leaves, grad)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients_are_those_of_the_reference(name, dtype):
    for shape in [(3, 5, 37), (2, 1, 1), (1, 3, 64), (4, 200)]:
        value, gate = halves(*shape, dtype=dtype)
        assert_close(
            gated_activation(value, gate, name, backend="native"), gated_activation_reference(value, gate, name)
        )
        grad = randn(*shape, dtype=dtype, seed=1)
        given = gradients(lambda v, g: gated_activation(v, g, name, backend="native"), (value, gate), grad)
        wide = [t.double() for t in (value, gate)]
        wanted = gradients(lambda v, g: gated_activation(v, g, name, backend="torch"), wide, grad.double())
        for a, e in zip(given, wanted, strict=True):
            assert a.dtype == dtype
            assert_close(a, e)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_directions_are_those_of_the_reference(name, dtype):
    for shape in [(2, 5, 37), (3, 1, 2), (1, 4, 64)]:
        y_backward, z = halves(*shape, dtype=dtype)
        tensors = (randn(*shape, dtype=dtype, seed=2), y_backward, z)
        given = gated_activation_two_way(*tensors, name, 0.5, backend="native")
        assert_close(given, gated_activation_two_way_reference(*tensors, name, 0.5))
        plain = gated_activation_two_way(*(t.double() for t in tensors), name, 0.5, backend="torch")
        assert_close(given, plain.to(dtype))
        grad = randn(*shape, dtype=dtype, seed=1)
        actual = gradients(lambda *t: gated_activation_two_way(*t, name, 0.5, backend="native"), tensors, grad)
        wide = [t.double() for t in tensors]
        wanted = gradients(lambda *t: gated_activation_two_way(*t, name, 0.5, backend="torch"), wide, grad.double())
        for a, e in zip(actual, wanted, strict=True):
            assert_close(a, e)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradcheck(name):
    value, gate = (t.detach().requires_grad_() for t in halves(2, 3, 11))
    other = randn(2, 3, 11, seed=3).requires_grad_()
    torch.autograd.gradcheck(lambda v, g: gated_activation(v, g, name, backend="native"), (value, gate))
    torch.autograd.gradcheck(
        lambda v, o, g: gated_activation_two_way(v, o, g, name, 0.5, backend="native"), (value, other, gate)
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_small_and_large_arguments_keep_their_relative_precision(name):
    sizes = torch.logspace(-30, 0.9, 300, dtype=torch.float64).float()
    gate = torch.cat((-sizes, sizes))
    one = torch.ones_like(gate)
    value = OPS.gated_activation(one, gate, native.activation_number(name)).double()
    slope = OPS.gated_activation_backward(one, one, gate, native.activation_number(name))[1].double()
    wide, wide_one = gate.double(), one.double()
    number = native.activation_number(name)
    torch.testing.assert_close(value, OPS.gated_activation(wide_one, wide, number), rtol=2e-5, atol=1e-36)
    torch.testing.assert_close(
        slope, OPS.gated_activation_backward(wide_one, wide_one, wide, number)[1], rtol=2e-5, atol=1e-7
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_infinities_and_nan_are_those_of_torch(name, dtype):
    numbers = [0.0, -0.0, torch.nan, -torch.inf, 200.0, -200.0, 1e30, -1e30, 1e-40]
    # torch's own gelu gives NaN at inf where it is vectorised, and inf where it is not.
    gate = torch.tensor(numbers if name == "gelu" else [*numbers, torch.inf], dtype=dtype).repeat(8)
    one = torch.ones_like(gate)
    functions = [lambda v, g, b=b: gated_activation(v, g, name, backend=b) for b in ("native", "torch")]
    given, wanted = (f(one, gate) for f in functions)
    torch.testing.assert_close(given, wanted, equal_nan=True)
    given, wanted = (gradients(f, (one, gate), one)[1] for f in functions)
    # torch's gelu_tanh has a NaN slope where the cube of x overflows.
    known = wanted.isfinite() | (gate.abs() < 1e10)
    torch.testing.assert_close(given[known], wanted[known], equal_nan=True, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_bfloat16_number_is_gated_in_float32_and_rounded_once(name):
    gate = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    one, wide_one = torch.ones_like(gate), torch.ones(gate.shape)
    wide = gated_activation(wide_one, gate.float(), name, backend="native").to(torch.bfloat16)
    torch.testing.assert_close(
        gated_activation(one, gate, name, backend="native"), wide, equal_nan=True, rtol=0, atol=0
    )


def test_tensors_of_any_strides_are_read_in_place_or_copied():
    base = randn(4, 6, 10)
    views = [base, base[:, ::2, :5].repeat(1, 2, 2), base.transpose(0, 1).contiguous().transpose(0, 1), base * 1]
    views += [base[..., None].expand(4, 6, 10, 2)[..., 1], base[:1].expand(4, 6, 10), base[:, :1].expand(4, 6, 10)]
    views += [randn(4, 10, 6).mT, randn(4, 6, 20)[..., ::2], randn(4, 6, 13)[..., 3:], randn(8, 6, 10)[::2]]
    views += [randn(6, 4, 10).transpose(0, 1)]
    for value in views:
        for gate in views:
            assert_close(
                gated_activation(value, gate, "silu", backend="native"), value * torch.nn.functional.silu(gate)
            )
            two_way = gated_activation_two_way(value, gate, value, "silu", 2.0, backend="native")
            assert_close(two_way, (value + gate.flip(1)) * torch.nn.functional.silu(value) * 2)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4), (), (1,), (100_003,)])
def test_empty_scalar_and_long_tensors(shape):
    value, gate = randn(*shape).requires_grad_(), randn(*shape, seed=1).requires_grad_()
    out = gated_activation(value, gate, "mish", backend="native")
    assert_close(out, value * ACTIVATIONS["mish"](gate))
    assert [g.shape for g in torch.autograd.grad(out.sum(), (value, gate))] == [value.shape, gate.shape]
    if len(shape) == 3:
        assert gated_activation_two_way(value, gate, gate, "mish", backend="native").shape == shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_outputs_larger_than_the_cache_are_right(dtype):
    """They are stored around it."""
    rows = 2**27 // 1000 // 4
    value, gate = torch.randn(rows, 2000).to(dtype).chunk(2, dim=-1)
    out = OPS.gated_activation(value, gate, SILU)
    expected = torch.nn.functional.silu(gate.float()).mul_(value)
    assert_close(out, expected.to(dtype))
    assert torch.equal(out, OPS.gated_activation(value, gate, SILU))


def every_gate() -> list[Tensor]:
    """Results of all four operators, of rows that begin at vectors, between them, and both."""
    results = []
    for dtype in DTYPES:
        for shape in [(2, 5, 37), (3, 4, 64), (2, 3, 130), (1, 2, 9000), (2, 1, 96)]:
            value, gate = halves(*shape, dtype=dtype)
            for start in (0, 1):
                v, g = value[..., start:], gate[..., start:]
                other, grad = randn(*v.shape, dtype=dtype, seed=1), randn(*v.shape, dtype=dtype, seed=2)
                results.append(OPS.gated_activation(v, g, SILU))
                results += OPS.gated_activation_backward(grad, v, g, SILU)
                results.append(OPS.two_way_gate(v, other, g, SILU, 0.5))
                results += OPS.two_way_gate_backward(grad, v, other, g, SILU, 0.5)
    return results


def test_stores_around_the_cache_change_no_bit(tmp_path):
    """In a process of its own, which reads the size from which on it stores so; misplaced ones would crash it."""
    program = "import sys, torch, tests.ops.test_native_gated_activation as t; torch.save(t.every_gate(), sys.argv[1])"
    command = [sys.executable, "-c", program, str(tmp_path / "results.pt")]
    streaming = {**os.environ, "HYBRIDGEN_STREAM_BYTES": "0"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=streaming)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    streamed, stored = torch.load(tmp_path / "results.pt"), every_gate()
    assert all(map(torch.equal, streamed, stored))
    assert len(streamed) == len(stored)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_the_output_may_be_the_value_itself(backend):
    value, gate = halves(3, 7, 33, dtype=torch.float32)
    expected = gated_activation(value, gate, "gelu", backend=backend)
    untouched = gate.clone()
    assert gated_activation(value, gate, "gelu", out=value, backend=backend) is value
    assert torch.equal(value, expected)
    assert torch.equal(gate, untouched)
    with pytest.raises(ShapeError, match=r"out must have shape \(3, 7, 33\)"):
        gated_activation(value, gate, "gelu", out=torch.empty(3, 7, 32), backend=backend)
    with pytest.raises(ShapeError, match=r"out must be of torch.float32"):
        gated_activation(value, gate, "gelu", out=torch.empty(3, 7, 33, dtype=torch.bfloat16), backend=backend)
    with pytest.raises(UnsupportedError, match="no gradient with out"):
        gated_activation(value.clone().requires_grad_(), gate, "gelu", out=value, backend=backend)


@pytest.mark.parametrize(
    "test", ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
)
def test_opcheck(test):
    def check(op, *arguments):
        torch.library.opcheck(op, arguments, test_utils=test)

    value, gate = halves(2, 3, 7, dtype=torch.float32)
    other, grad = randn(2, 3, 7, dtype=torch.float32, seed=1), randn(2, 3, 7, dtype=torch.float32, seed=2)
    leaves = [t.detach().requires_grad_() for t in (value, other, gate)]
    check(OPS.gated_activation.default, leaves[0], leaves[2], 1)
    check(OPS.two_way_gate.default, *leaves, 1, 0.5)
    check(OPS.gated_activation_backward.default, grad, value, gate, 1)
    check(OPS.two_way_gate_backward.default, grad, value, other, gate, 1, 0.5)
    check(OPS.gated_activation_out.default, value, gate, 1, torch.empty(2, 3, 7))


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no-grad"])
def test_runs_are_equal_to_the_bit(grad):
    value, gate = halves(5, 700, 129, dtype=torch.float32)
    with torch.set_grad_enabled(grad):
        first, *others = (gated_activation(value, gate, "gelu_tanh", backend="native") for _ in range(5))
    assert all(torch.equal(first, other) for other in others)


def test_wrong_calls_are_refused_or_named(no_shape_checks):
    x = torch.ones(2, 3, 4)
    with pytest.raises(UnsupportedError, match="no activation is called 'swosh'"):
        gated_activation(x, x, "swosh")
    with pytest.raises(BackendUnavailableError, match=r"one dtype, but was given torch.float32 and torch.float64"):
        gated_activation(x, x.double(), "silu", backend="native")
    with pytest.raises(BackendUnavailableError, match=r"it has no torch.int32 kernel"):
        gated_activation(x.int(), x.int(), "relu", backend="native")
    with pytest.raises(BackendUnavailableError, match=r"one shape, but was given \(2, 3, 4\) and \(4,\)"):
        gated_activation(x, x[0, 0], "relu", backend="native")
    with pytest.raises(ShapeError, match=r"gated_activation_two_way: z must have shape \(2, 3, 4\), but has \(2, 3\)"):
        gated_activation_two_way(x, x, x[..., 0], "silu")
    with pytest.raises(RuntimeError, match=r"gated_activation: gate must have shape \(2, 3, 4\), but has \(2, 3, 3\)"):
        OPS.gated_activation(x, x[..., 1:], SILU)
    with pytest.raises(RuntimeError, match="activation must be a number from 0 to 10, but is 11"):
        OPS.gated_activation(x, x, 11)
    with pytest.raises(RuntimeError, match="gated_activation_out: out must lie in rows of a fixed distance"):
        OPS.gated_activation_out(x, x, SILU, torch.empty(2, 4, 3).mT)
    with pytest.raises(RuntimeError, match=r"two_way_gate: y_forward must have shape \(B, T, D\), but has \(3, 4\)"):
        OPS.two_way_gate(x[0], x[0], x[0], SILU, 1.0)


def test_mixed_dtypes_and_broadcasts_run_on_plain_pytorch(no_shape_checks):
    x = torch.ones(2, 3, 4)
    assert gated_activation(x.bfloat16(), x, "silu").dtype == torch.float32
    assert gated_activation(x, x[0, 0], "identity").shape == x.shape
