"""Mamba-2's scan and one-token update in the extension, against the reference."""

import math

import pytest
import torch

from hybridgen.errors import BackendUnavailableError
from hybridgen.ops import native
from hybridgen.ops.ssd import ssd_scan, ssd_update
from hybridgen.ops.ssd.reference import ssd_scan_reference
from tests.helpers.op_cases import OP_CASES, random_resets
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.skipif(not native.LOADED, reason="the extension is not built")

CASES = {name: case for name, case in OP_CASES.items() if name.startswith("ssd")}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
LENGTHS = [0, 1, 16, 17, 150]
# Heads, channels, groups and state size: whole panels, tails of every kind, and more heads than share one preparation.
SIZES = [(2, 64, 1, 128), (3, 33, 3, 40), (20, 5, 1, 9), (2, 1, 2, 1), (2, 3, 2, 300)]


def _state_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def _boundaries(case, T, batch, dtype):
    initial = case.initial_state(batch=batch, dtype=_state_dtype(dtype))
    return {"initial_state": initial, "resets": random_resets(T, batch=batch)}


def _tensors(sizes, T=70, batch=2, dtype=torch.float64, seed=0):
    H, P, G, N = sizes
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    tensors = {"x": normal(batch, T, H, P), "dt": normal(batch, T, H), "A": -normal(H).abs()}
    tensors |= {"B": normal(batch, T, G, N), "C": normal(batch, T, G, N), "D": normal(H), "dt_bias": normal(H)}
    return tensors


def _gradients(function, tensors, **more):
    leaves = {name: t.detach().clone().requires_grad_() for name, t in tensors.items()}
    y, state = function(**leaves, **more)
    generator = torch.Generator().manual_seed(5)
    weights = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in (y, state)]
    inputs = list(leaves.values())
    grads = torch.autograd.grad((y, state), inputs, weights, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, grads, strict=True)]


def _compare_gradients(tensors, dtype=None, **more):
    tensors = {name: t for name, t in tensors.items() if t is not None}
    actual = _gradients(lambda **a: ssd_scan(**a, backend="native", **more), tensors)
    wide = {name: t.double() for name, t in tensors.items()}
    expected = _gradients(lambda **a: ssd_scan_reference(**a, **more), wide)
    for name, a, e in zip(tensors, actual, expected, strict=True):
        # Sums over many tokens: relative to the largest.
        size = e.abs().amax().clamp(min=1.0) if e.numel() else 1.0
        assert_close(a.double() / size, e / size, dtype, what=f"d{name}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_scan_equals_the_reference(name, dtype):
    case = CASES[name]
    for T in LENGTHS:
        for batch in (0, 1, 3):
            arguments = case.arguments(T, batch=batch, dtype=dtype)
            for more in ({}, _boundaries(case, T, batch, dtype)):
                y, state = case(arguments, **more, backend="native")
                expected, expected_state = case.expected(arguments, **more)
                assert y.dtype == dtype
                assert state.dtype == _state_dtype(dtype)
                assert_close(y, expected)
                assert_close(state, expected_state, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_updates_equal_the_reference(name, dtype):
    case = CASES[name]
    for batch in (0, 1, 3):
        arguments = case.arguments(4, batch=batch, dtype=dtype)
        start = case.initial_state(batch=batch, dtype=_state_dtype(dtype))
        state, outputs = start.clone(), []
        for token in range(4):
            step = case.along_time(arguments, lambda t, token=token: t[:, token])
            options = {key: value for key, value in case.options.items() if key != "chunk_size"}
            outputs.append(ssd_update(state, **step, **options, backend="native"))
        expected, expected_state = case.expected(arguments, initial_state=start)
        assert_close(torch.stack(outputs, 1), expected)
        assert_close(state, expected_state, dtype)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_size_forward_backward_and_update(sizes):
    for dtype in (torch.float64, torch.float32):
        tensors = _tensors(sizes, T=66, batch=1, dtype=dtype)
        resets = random_resets(66, batch=1)
        _compare_gradients(tensors, dtype, resets=resets)
        y, state = ssd_scan(**tensors, resets=resets, backend="native")
        wide = {name: t.double() for name, t in tensors.items()}
        expected, expected_state = ssd_scan_reference(**wide, resets=resets)
        largest = expected.abs().amax()
        assert_close(y.double() / largest, expected / largest, dtype)
        assert_close(state, expected_state)
        step = {name: t[:, 0] if t.dim() > 2 else t for name, t in tensors.items()}
        first = {name: t[:, :1] if t.dim() > 2 else t for name, t in wide.items()}
        out = ssd_update(state, **step, backend="native")
        expected, _ = ssd_scan_reference(**first, initial_state=expected_state)
        assert_close(out.double() / largest, expected[:, 0] / largest, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_the_references(name, dtype):
    case = CASES[name]
    limit = case.reference_options
    for T in LENGTHS[1:]:
        arguments = case.arguments(T, batch=2, dtype=dtype)
        _compare_gradients(arguments, dtype, **limit)
        more = _boundaries(case, T, 2, dtype)
        _compare_gradients(arguments | {"initial_state": more["initial_state"]}, dtype, resets=more["resets"], **limit)


def test_gradcheck():
    tensors = {name: t.requires_grad_() for name, t in _tensors((2, 2, 1, 2), T=19, batch=1).items()}
    initial = torch.randn(1, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    resets = torch.zeros(1, 19, dtype=torch.bool)
    resets[:, [3, 17]] = True

    def run(*tensors):
        return ssd_scan(*tensors[:7], initial_state=tensors[7], resets=resets, backend="native")

    torch.autograd.gradcheck(run, (*tensors.values(), initial), fast_mode=True)


def test_no_tokens_have_gradients():
    tensors = {name: t.requires_grad_() for name, t in _tensors((2, 3, 1, 4), T=0).items()}
    initial = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    y, state = ssd_scan(**tensors, initial_state=initial, backend="native")
    gradients = torch.autograd.grad(y.sum() + (state * 3).sum(), [*tensors.values(), initial])
    assert all((g == 0).all() for g in gradients[:-1])
    assert (gradients[-1] == 3).all()


def test_strided_inputs_are_read_in_place():
    H, P, G, N, T = 2, 40, 1, 24, 37
    packed = torch.randn(2, T, H * P + 2 * G * N + H)
    x, B, C, dt = packed.split([H * P, G * N, G * N, H], dim=-1)
    views = (x.unflatten(2, (H, P)), dt, -torch.rand(H), B.unflatten(2, (G, N)), C.unflatten(2, (G, N)))
    dense = [t.contiguous() for t in views]
    flipped = torch.randn(2, P, H, T).permute(0, 3, 2, 1)
    for x in (views[0], flipped):
        y, state = ssd_scan(x, *views[1:], backend="native")
        expected, expected_state = ssd_scan(x.contiguous(), *dense[1:], backend="native")
        assert torch.equal(y, expected)
        assert torch.equal(state, expected_state)
    _compare_gradients(dict(zip(("x", "dt", "A", "B", "C"), views, strict=True)), torch.float32)


def test_a_strided_state_advances_in_place():
    case = CASES["ssd-groups"]
    arguments = case.arguments(1, dtype=torch.float32)
    storage = torch.randn(4, 2, 3, 2, 7).permute(1, 0, 2, 3, 4)
    state, other = storage[:, :, :, 0], storage[:, :, :, 1].clone()
    expected = state.clone()
    y = case.step(expected, arguments, 0)
    step = case.along_time(arguments, lambda t: t[:, 0])
    assert torch.equal(ssd_update(state, **step, dt_limit=(0.2, 1.5), backend="native"), y)
    assert torch.equal(state, expected)
    assert torch.equal(storage[:, :, :, 1], other)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nothing_crosses_a_reset_or_runs_backwards(value):
    tensors = _tensors((2, 40, 1, 20), T=64, batch=1, dtype=torch.float32)
    resets = torch.zeros(1, 64, dtype=torch.bool)
    resets[0, 37] = True
    clean = ssd_scan(**tensors, resets=resets, backend="native")
    for name in ("x", "dt", "B"):
        dirty = {key: t.clone() for key, t in tensors.items()}
        dirty[name][0, 21] = value
        y, state = ssd_scan(**dirty, resets=resets, backend="native")
        assert torch.equal(y[:, :21], clean[0][:, :21])
        assert not y[:, 21].isfinite().any()
        assert torch.equal(y[:, 37:], clean[0][:, 37:])
        assert torch.equal(state, clean[1])
        gradients = _gradients(lambda **a: ssd_scan(**a, resets=resets, backend="native"), dirty)
        assert gradients[0][:, 37:].isfinite().all()


def test_runs_are_equal_to_the_bit():
    tensors = _tensors((6, 40, 1, 20), T=200, dtype=torch.float32)
    runs = [
        [*ssd_scan(**tensors, backend="native"), *_gradients(lambda **a: ssd_scan(**a, backend="native"), tensors)]
        for _ in range(3)
    ]
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


@pytest.mark.parametrize("size", [1.0, 1e4, 1e30])
def test_huge_steps_stay_finite_and_right(size):
    tensors = _tensors((2, 3, 1, 5), T=200, dtype=torch.float32)
    tensors["dt"] *= size
    tensors["x"] /= size
    y, _ = ssd_scan(**tensors, backend="native")
    expected, _ = ssd_scan_reference(**{name: t.double() for name, t in tensors.items()})
    assert_close(y, expected.float())
    assert all(g.isfinite().all() for g in _gradients(lambda **a: ssd_scan(**a, backend="native"), tensors))


def test_long_sequences_stay_finite():
    tensors = _tensors((2, 3, 1, 5), T=100_000, batch=1, dtype=torch.float32)
    gradients = _gradients(lambda **a: ssd_scan(**a, backend="native"), tensors)
    assert all(g.isfinite().all() for g in gradients)


def _op_arguments(full, dtype=torch.float32):
    tensors = _tensors((4, 5, 2, 6), T=70, dtype=dtype)
    if not full:
        tensors["D"] = tensors["dt_bias"] = None
    initial = torch.randn(2, 4, 5, 6, dtype=_state_dtype(dtype)) if full else None
    parameters = {name: None if t is None else t.to(_state_dtype(dtype)) for name, t in tensors.items()}
    wide = [parameters[name] for name in ("A", "D", "dt_bias")]
    x, dt, B, C = (tensors[name] for name in ("x", "dt", "B", "C"))
    return [x, dt, wide[0], B, C, *wide[1:], 0.1, 5.0, initial, random_resets(70) if full else None]


@pytest.mark.parametrize("full", [True, False], ids=["everything", "required"])
def test_opcheck(full):
    arguments = _op_arguments(full)
    y, final, kept = native.OPS.ssd_scan(*arguments, True)
    backward = (*arguments, kept, torch.ones_like(y), torch.ones_like(final))
    torch.library.opcheck(native.OPS.ssd_scan_backward.default, backward)
    for tensor in arguments:
        if torch.is_tensor(tensor) and tensor.is_floating_point():
            tensor.requires_grad_()
    torch.library.opcheck(native.OPS.ssd_scan.default, (*arguments, True))
    step = [t.detach()[:, 0] if torch.is_tensor(t) and t.dim() > 2 else t for t in _op_arguments(full)[:9]]
    torch.library.opcheck(native.OPS.ssd_update.default, (torch.randn(2, 4, 5, 6), *step))


def test_calls_it_cannot_do_are_refused():
    tensors = _tensors((2, 3, 1, 4), T=5, dtype=torch.float32)
    mixed = tensors | {"B": tensors["B"].bfloat16()}
    with pytest.raises(BackendUnavailableError, match="it needs x, B and C in one of float32, float64"):
        ssd_scan(**mixed, backend="native")
    step = {name: t[:, 0] if t.dim() > 2 else t for name, t in tensors.items()}
    with pytest.raises(BackendUnavailableError, match=r"must be torch\.float32, but is torch\.bfloat16"):
        ssd_update(torch.zeros(2, 2, 3, 4, dtype=torch.bfloat16), **step, backend="native")
    with pytest.raises(BackendUnavailableError, match="it has no gradient"):
        ssd_update(torch.zeros(2, 2, 3, 4, requires_grad=True), **step, backend="native")
    with pytest.raises(BackendUnavailableError, match="must be dense, but has stride 3"):
        ssd_update(torch.zeros(2, 2, 4, 3).mT, **step, backend="native")


def test_the_operator_names_what_is_wrong():
    arguments = _op_arguments(True)
    with pytest.raises(RuntimeError, match=r"ssd_scan: A must have shape \(4\), but has \(3\)"):
        native.OPS.ssd_scan(*arguments[:2], arguments[2][:3], *arguments[3:], False)
    with pytest.raises(RuntimeError, match="ssd_scan: C must be float32, but is float64"):
        native.OPS.ssd_scan(*arguments[:4], arguments[4].double(), *arguments[5:], False)
