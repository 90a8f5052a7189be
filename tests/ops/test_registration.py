"""The operators registered with PyTorch, and what only one of them has to promise."""

import pytest
import torch

from hybridgen.errors import ShapeError, UnsupportedError
from hybridgen.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from hybridgen.ops.selective_scan import registration, selective_scan, selective_state_update
from hybridgen.ops.selective_scan.registration import selective_scan_backward_op, selective_scan_op
from hybridgen.ops.ssd import ssd_scan, ssd_update
from hybridgen.ops.ssd.state_passing import state_passing, state_passing_backward
from tests.helpers.op_cases import OP_CASES, random_resets
from tests.helpers.tolerances import assert_close


def _scan_op_arguments(full: bool, T: int = 40) -> list:
    case = OP_CASES["scan-groups"]
    a = case.arguments(T, dtype=torch.float32)
    tensors = [a["u"], a["dt"], a["A"], a["B"], a["C"]]
    tensors += [a["D"], a["dt_bias"], case.initial_state(dtype=torch.float32)] if full else [None] * 3
    for tensor in tensors:
        if tensor is not None:
            tensor.requires_grad_()
    return [*tensors, random_resets(T) if full else None]


@pytest.mark.parametrize("full", [True, False], ids=["everything", "required"])
def test_opcheck_selective_scan(full):
    torch.library.opcheck(selective_scan_op, (*_scan_op_arguments(full), True))


@pytest.mark.parametrize("full", [True, False], ids=["everything", "required"])
def test_opcheck_selective_scan_backward(full):
    arguments = [t if t is None else t.detach() for t in _scan_op_arguments(full)]
    y, final, kept = selective_scan_op(*arguments, True)
    torch.library.opcheck(selective_scan_backward_op, (*arguments, kept, torch.ones_like(y), torch.ones_like(final)))


def test_opcheck_state_passing():
    increments, keep, start = torch.randn(2, 5, 2, 3, 2, 4), torch.rand(2, 5, 2, 2), torch.randn(2, 2, 3, 2, 4)
    arguments = tuple(t.requires_grad_() for t in (increments, keep, start))
    torch.library.opcheck(state_passing, arguments)
    states = state_passing(*arguments).detach()
    torch.library.opcheck(state_passing_backward, (keep.detach(), states, torch.randn_like(states)))


def test_blocks_of_rows_equal_the_whole_batch(monkeypatch):
    case = OP_CASES["scan-groups"]
    resets = random_resets(50, batch=5)

    def run():
        arguments = case.arguments(50, batch=5)
        state = case.initial_state(batch=5)
        inputs = [t.requires_grad_() for t in (*arguments.values(), state)]
        y, final = case(arguments, initial_state=state, resets=resets)
        return y, final, *torch.autograd.grad((y**2).sum() + (final**3).sum(), inputs)

    whole = run()
    monkeypatch.setattr(registration, "_BLOCK_ELEMENTS", 2 * 32 * 6 * 4)
    for a, e in zip(run(), whole, strict=True):
        assert_close(a, e)


def test_only_the_final_state_or_only_the_output_may_be_used():
    for name in ("scan", "ssd"):
        case = OP_CASES[name]
        for chosen in (0, 1):
            arguments = case.arguments(33)
            inputs = [t.requires_grad_() for t in arguments.values()]
            actual = torch.autograd.grad(case(arguments)[chosen].sum(), inputs, allow_unused=True)
            expected = torch.autograd.grad(case.expected(arguments)[chosen].sum(), inputs, allow_unused=True)
            for a, e, t in zip(actual, expected, inputs, strict=True):
                zeros = torch.zeros_like(t)
                assert_close(zeros if a is None else a, zeros if e is None else e)


@pytest.mark.parametrize("name", ["scan", "ssd"])
@pytest.mark.parametrize("size", [1.0, 1e4, 1e30])
def test_huge_decays_stay_finite_and_right(name, size):
    case = OP_CASES[name]
    arguments = case.arguments(200, dtype=torch.float32)
    first = next(iter(arguments))
    arguments["dt"] *= size
    arguments[first] /= size
    inputs = [t.requires_grad_() for t in arguments.values()]
    y, state = case(arguments)
    expected, _ = case.expected(arguments)
    assert_close(y, expected.float())
    gradients = torch.autograd.grad(y.sum() + state.sum(), inputs)
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("name", ["scan", "ssd"])
def test_a_hundred_thousand_tokens_stay_finite(name):
    case = OP_CASES[name]
    arguments = case.arguments(100_000, batch=1, dtype=torch.float32)
    inputs = [t.requires_grad_() for t in arguments.values()]
    y, state = case(arguments)
    gradients = torch.autograd.grad(y.mean() + state.sum(), inputs)
    assert all(t.isfinite().all() for t in (y, state, *gradients))


def test_weak_decays_are_exact_behind_a_strong_one():
    dt = torch.full((1, 64, 1), 0.1)
    dt[:, 5] = 1e6
    x, B = torch.zeros(1, 64, 1, 1), torch.ones(1, 64, 1, 1)
    x[:, 6] = 1.0
    y, _ = ssd_scan(x, dt, -torch.ones(1), B, B)
    rate = torch.nn.functional.softplus(torch.tensor(0.1))
    assert_close(y.flatten()[6:], rate * torch.exp(-rate * torch.arange(58)))


WRONG_CALLS = {
    "causal_conv1d: weight must have shape (6, 4), but has (5, 4)": lambda x: causal_conv1d(
        x, torch.ones(5, 4), None, "silu"
    ),
    "causal_conv1d: initial_state must have shape (2, 6, 3), but has (2, 6, 4)": lambda x: causal_conv1d(
        x, torch.ones(6, 4), None, "silu", torch.ones(2, 6, 4)
    ),
    "causal_conv1d_update: state must have shape (2, 6, 3), but has (2, 3, 6)": lambda x: causal_conv1d_update(
        x[:, 0], torch.ones(2, 3, 6), torch.ones(6, 4), None, "silu"
    ),
    "selective_scan: A must have shape (6, 3), but has (7, 3)": lambda x: selective_scan(
        x, x, torch.ones(7, 3), torch.ones(2, 5, 1, 3), torch.ones(2, 5, 1, 3)
    ),
    "selective_scan: B and C have 4 groups, which must divide the 6 channels": lambda x: selective_scan(
        x, x, torch.ones(6, 3), torch.ones(2, 5, 4, 3), torch.ones(2, 5, 4, 3)
    ),
    "selective_state_update: dt must have shape (2, 6), but has (2, 5)": lambda x: selective_state_update(
        torch.ones(2, 6, 3), x[:, 0], x[:, 0, :5], torch.ones(6, 3), torch.ones(2, 1, 3), torch.ones(2, 1, 3)
    ),
    "ssd_scan: resets must have shape (2, 5), but has (2, 4)": lambda x: ssd_scan(
        x[..., None],
        x,
        torch.ones(6),
        torch.ones(2, 5, 1, 3),
        torch.ones(2, 5, 1, 3),
        resets=torch.ones(2, 4, dtype=torch.bool),
    ),
    "ssd_scan: chunk_size must be at least 1, but is 0": lambda x: ssd_scan(
        x[..., None], x, torch.ones(6), torch.ones(2, 5, 1, 3), torch.ones(2, 5, 1, 3), chunk_size=0
    ),
    "ssd_update: D must have shape (6,), but has (5,)": lambda x: ssd_update(
        torch.ones(2, 6, 1, 3),
        x[:, 0, :, None],
        x[:, 0],
        torch.ones(6),
        torch.ones(2, 1, 3),
        torch.ones(2, 1, 3),
        torch.ones(5),
    ),
}


@pytest.mark.parametrize("message", WRONG_CALLS)
def test_wrong_shapes_are_named(message, no_shape_checks):
    with pytest.raises(ShapeError) as error:
        WRONG_CALLS[message](torch.ones(2, 5, 6))
    assert str(error.value) == message


def test_an_unknown_activation_is_named():
    with pytest.raises(UnsupportedError, match="no activation is called 'swosh'; the names are silu, gelu, gelu_tanh,"):
        causal_conv1d(torch.ones(1, 2, 3), torch.ones(3, 4), None, "swosh")
