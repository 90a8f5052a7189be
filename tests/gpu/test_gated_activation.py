"""On CUDA, our own gated activation computes what plain PyTorch computes in float64, gradients included."""

import pytest
import torch
from torch import Tensor

from hybridgen.ops import native
from hybridgen.ops.activations import ACTIVATIONS
from hybridgen.ops.gated_activation import gated_activation, gated_activation_two_way
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.skipif(native.missing("cuda") is not None, reason=str(native.missing("cuda")))

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# Whole vectors of 16 bytes, odd ends, rows longer than a block, single columns, nothing.
SHAPES = [(2, 5, 64), (3, 7, 37), (2, 3, 4099), (4, 300, 1), (1, 1, 1), (2, 0, 8), (0, 3, 8)]


def _tensors(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """y_forward, y_backward, z and a gradient; y_backward and z are halves of one tensor."""
    torch.manual_seed(0)
    packed = 2 * torch.randn(*shape[:-1], 2 * shape[-1], device="cuda", dtype=torch.float64)
    y_backward, z = packed.to(dtype).chunk(2, dim=-1)
    y_forward, grad = (torch.randn(shape, device="cuda", dtype=torch.float64).to(dtype) for _ in range(2))
    return [y_forward, y_backward, z, grad]


def _run(function, inputs: list[Tensor], grad: Tensor, backend: str) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in inputs]
    out = function(*leaves, backend)
    return [out, *torch.autograd.grad(out, leaves, grad)]


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("directions", [1, 2])
def test_kernel_and_plain_gate_agree(name: str, dtype: torch.dtype, directions: int) -> None:
    def run(*arguments):
        *tensors, backend = arguments
        if directions == 1:
            return gated_activation(*tensors, name, backend=backend)
        return gated_activation_two_way(*tensors, name, 0.5, backend=backend)

    for shape in SHAPES:
        *tensors, grad = _tensors(shape, dtype)
        tensors = tensors[2 - directions :]
        given = _run(run, tensors, grad, "native")
        wanted = _run(run, [t.double() for t in tensors], grad.double(), "torch")
        for a, e in zip(given, wanted, strict=True):
            assert a.dtype == dtype
            assert_close(a, e)


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_tensors_that_are_not_aligned(offset: int) -> None:
    for rows, stride in [(5, 40), (5, 33), (1, 40)]:
        value, gate = (torch.randn(rows, stride, device="cuda")[:, offset : offset + 30] for _ in range(2))
        expected = value * torch.nn.functional.silu(gate)
        assert_close(gated_activation(value, gate, "silu", backend="native"), expected)
        assert_close(gated_activation(value.mT, gate.mT, "silu", backend="native"), expected.mT)


def test_the_output_may_be_the_value_itself() -> None:
    value, gate = torch.randn(3, 7, 66, device="cuda").chunk(2, dim=-1)
    expected = gated_activation(value, gate, "gelu", backend="native")
    native.OPS.gated_activation_out(value, gate, native.activation_number("gelu"), value)
    assert torch.equal(value, expected)


def test_the_current_stream_is_used() -> None:
    value, gate = torch.randn(2, 2**22, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(50):
            value = value * 1.0
        out = gated_activation(value, gate, "silu", backend="native")
    torch.cuda.current_stream().wait_stream(stream)
    assert_close(out, value * torch.nn.functional.silu(gate))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_infinities_and_nan_are_those_of_the_cpu(name: str) -> None:
    gate = torch.tensor([0.0, -0.0, torch.nan, torch.inf, -torch.inf, 200.0, -200.0, 1e30, -1e30])
    number = native.activation_number(name)
    cpu = native.OPS.gated_activation(torch.ones_like(gate), gate, number)
    cuda = native.OPS.gated_activation(torch.ones_like(gate).cuda(), gate.cuda(), number)
    torch.testing.assert_close(cuda.cpu(), cpu, equal_nan=True)
