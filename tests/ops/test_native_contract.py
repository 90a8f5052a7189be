"""What every native operator promises to autograd, to torch.func and to a caller who gives it the wrong tensors."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from hybridgen.errors import BackendUnavailableError
from hybridgen.ops import native
from hybridgen.ops.add_norm import add_norm
from hybridgen.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from hybridgen.ops.gated_activation import gated_activation, gated_activation_two_way
from hybridgen.ops.linear import linear
from hybridgen.ops.selective_attention import selective_attention
from hybridgen.ops.selective_scan import selective_scan, selective_state_update
from hybridgen.ops.ssd import ssd_scan, ssd_update

pytestmark = pytest.mark.skipif(not native.LOADED, reason="hybridgen's extension is not built")
OPS = native.OPS
T = 70


class Case(NamedTuple):
    """A function of one tensor (2, 70, 4) and the name of the backend."""

    run: Callable[[Tensor, str], Tensor]
    twice: bool = True


def _given(*shape: int, seed: int = 0) -> Tensor:
    # Nothing random, which vmap refuses.
    return (1.7 * torch.arange(math.prod(shape), dtype=torch.float64) + seed).sin().view(shape)


def _scan(x: Tensor, backend: str, **more: Any) -> tuple[Tensor, Tensor]:
    B, A, D = _given(2, T, 2, 3), -_given(4, 3).abs(), _given(4)
    return selective_scan(x, x.sin(), A, B, B, D, x, D, backend=backend, initial_state=_given(2, 4, 3), **more)


def _ssd(x: Tensor, backend: str, **more: Any) -> tuple[Tensor, Tensor]:
    B, A, D = _given(2, T, 2, 3), -_given(4).abs(), _given(4)
    state = _given(2, 4, 1, 3)
    return ssd_scan(x[..., None], x.sin(), A, B, B, D, D, chunk_size=16, initial_state=state, backend=backend, **more)


def _select(x: Tensor, backend: str) -> Tensor:
    q = x.unflatten(2, (2, 2)).transpose(1, 2)
    return selective_attention(q.sin(), q, q.cos(), 0.5, sinks=_given(2), backend=backend)[0]


CASES = {
    "gate": Case(lambda x, b: gated_activation(x.cos(), x, "silu", backend=b)),
    "two-way": Case(lambda x, b: gated_activation_two_way(x.cos(), x, x, "gelu", 0.5, backend=b)),
    "add_norm": Case(lambda x, b: add_norm(x, x.cos(), _given(4), None, 1e-5, "rms", 0.0, torch.float64, b)[0]),
    "conv": Case(lambda x, b: causal_conv1d(x, _given(4, 3), _given(4), "silu", None, None, b)[0]),
    "scan": Case(lambda x, b: _scan(x, b)[0], twice=False),
    "ssd": Case(lambda x, b: _ssd(x, b)[0], twice=False),
    "select": Case(_select, twice=False),
}
NAMES = list(CASES)
# Selective attention's plain path is an operator too: no backend has more than its first derivative.
TRANSFORMED = [name for name in NAMES if name != "select"]


@pytest.mark.parametrize("name", NAMES)
def test_a_second_derivative_is_an_error_and_not_zero(name):
    case, x = CASES[name], _given(2, T, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(case.run(x, "native").sum(), x, create_graph=True)
    assert gradient.requires_grad
    with pytest.raises(RuntimeError, match=r"it has no gradient; .* derivative"):
        (case.run(x, "native").sum() + gradient.square().sum()).backward()
    if case.twice:
        (gradient,) = torch.autograd.grad(case.run(x, "torch").sum(), x, create_graph=True)
        gradient.square().sum().backward()


# PyTorch loads its forward derivatives by the first, and has no rule of vmap for some operators.
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("name", [*TRANSFORMED, "linear"])
def test_forward_mode_and_torch_func_take_the_plain_path(name):
    run = CASES[name].run if name in CASES else lambda x, b: linear(x[:, :2], _given(3, 4).to(x.dtype), backend=b)
    x, direction = _given(2, T, 4), _given(2, T, 4, seed=1)

    def total(x: Tensor, backend: str = "auto") -> Tensor:
        return run(x, backend).sum()

    slope = (total(x + 1e-6 * direction) - total(x - 1e-6 * direction)) / 2e-6
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(torch.func.jvp(total, (x,), (direction,))[1], slope, **close)
    torch.testing.assert_close((torch.func.grad(total)(x) * direction).sum(), slope, **close)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(total(forward_ad.make_dual(x, direction))).tangent
        torch.testing.assert_close(tangent, slope, **close)
        with pytest.raises(BackendUnavailableError, match="no forward-mode derivative"):
            run(x.float()[:, :1] if name == "linear" else x, "native")
    both = torch.vmap(lambda t: run(t, "auto"))(torch.stack([x, direction]))
    torch.testing.assert_close(both, torch.stack([run(x, "torch"), run(direction, "torch")]))


def test_only_the_output_that_is_used_has_a_gradient():
    for run in (_scan, _ssd):
        for chosen in (0, 1):
            x, plain = _given(2, T, 4).requires_grad_(), _given(2, T, 4).requires_grad_()
            run(x, "native")[chosen].sum().backward()
            run(plain, "torch")[chosen].sum().backward()
            torch.testing.assert_close(x.grad, plain.grad)


def _token(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    shapes = {"x": (2, 4), "cs": (2, 4, 3), "w": (4, 4), "s": (2, 4, 3), "B": (2, 1, 3), "A": (4, 3)}
    shapes |= {"h": (2, 4, 1, 3), "a": (4,), "hx": (2, 4, 1), "v": (2, 3, 4)}
    shapes |= {"sq": (2, 1, 2, 4), "st": (2, 1, 1, 2)}
    return {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}


# Operator -> the name of the tensor that it writes, the raw call.
IN_PLACE: dict[str, tuple[str, Callable[..., Any]]] = {
    "causal_conv1d_update": ("cs", lambda t: OPS.causal_conv1d_update(t["x"], t["cs"], t["w"], None, 0)),
    "selective_state_update": (
        "s",
        lambda t: OPS.selective_state_update(t["s"], t["x"], t["x"], t["A"], t["B"], t["B"], None, None, None, 0),
    ),
    "ssd_update": (
        "h",
        lambda t: OPS.ssd_update(t["h"], t["hx"], t["x"], t["a"], t["B"], t["B"], None, None, 0.0, 1.0),
    ),
    "gated_activation_out": (
        "v",
        lambda t: OPS.gated_activation_out(torch.ones(2, 3, 4), torch.ones(2, 3, 4), 0, t["v"]),
    ),
    "selective_attention_table": (
        "st",
        lambda t: OPS.selective_attention_table(
            t["sq"][:, :, 1:], t["sq"], t["sq"], None, None, None, 1.0, 0, True, None, None, True, None, 1.0, t["st"]
        ),
    ),
}
UPDATES: dict[str, Callable[..., Any]] = {
    "causal_conv1d_update": lambda t: causal_conv1d_update(t["x"], t["cs"], t["w"], None, "silu", backend="native"),
    "selective_state_update": lambda t: selective_state_update(
        t["s"], t["x"], t["x"], t["A"], t["B"], t["B"], backend="native"
    ),
    "ssd_update": lambda t: ssd_update(t["h"], t["hx"], t["x"], t["a"], t["B"], t["B"], backend="native"),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_autograd_learns_that_a_tensor_was_written(name):
    written, raw = IN_PLACE[name]
    for call in (raw, UPDATES.get(name, raw)):
        tensors = _token()
        before = tensors[written].clone()
        call(tensors)
        assert tensors[written]._version > 0
        assert not torch.equal(tensors[written], before)
        tensors = _token()
        factor = torch.ones_like(tensors[written]).requires_grad_()
        product = (factor * tensors[written]).sum()
        call(tensors)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.backward()


@pytest.mark.parametrize("name", IN_PLACE)
def test_inference_tensors_are_written_in_inference_mode_only(name):
    written, raw = IN_PLACE[name]
    for call in (raw, UPDATES.get(name, raw)):
        with torch.inference_mode():
            tensors = _token()
            call(tensors)
        outside = _token() | {written: tensors[written]}
        with pytest.raises(RuntimeError, match="inference tensor"):
            call(outside)


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_written_tensor_does_not_overlap_itself(name):
    written, call = IN_PLACE[name]
    tensors = _token()
    tensors[written] = torch.zeros_like(tensors[written])[:1].expand_as(tensors[written])
    with pytest.raises(RuntimeError, match=f"{name}: .* is written, but several of its elements share memory"):
        call(tensors)
    shape = tensors[written].shape
    tensors[written] = torch.zeros(100).as_strided(shape, (*range(1, len(shape)), 1)[::-1])
    with pytest.raises(RuntimeError, match="share memory"):
        call(tensors)
    # Rows of a wider tensor do not overlap.
    tensors[written] = torch.zeros(*shape[:-1], shape[-1] + 5)[..., : shape[-1]]
    call(tensors)


def test_out_lies_apart_from_the_inputs_or_is_one():
    packed = torch.randn(3, 5, 8)
    value, gate = packed.clone()[..., :4], packed.clone()[..., 4:]
    expected = OPS.gated_activation(value, gate, 0)
    for out_is in (0, 1):
        halves = packed.clone().chunk(2, -1)
        OPS.gated_activation_out(*halves, 0, halves[out_is])
        assert torch.equal(halves[out_is], expected)
    both = torch.cat([packed[..., :4], packed[..., 4:]])
    OPS.gated_activation_out(both[:3], both[3:], 0, out := torch.empty(3, 5, 4))
    assert torch.equal(out, expected)
    for shift in (1, 3, 8, 9):
        row = torch.randn(3, 5, 20)
        with pytest.raises(RuntimeError, match="gated_activation_out: out shares memory with gate without being"):
            OPS.gated_activation_out(torch.ones(3, 5, 10), row[..., :10], 0, row[..., shift : shift + 10])
    line = torch.randn(40)
    with pytest.raises(RuntimeError, match="out shares memory with value"):
        OPS.gated_activation_out(line[:20], torch.ones(20), 0, line[:40:2])
    OPS.gated_activation_out(line[:20], torch.ones(20), 0, line[20:])


def _raw_calls(number: int) -> dict[str, Callable[[], Any]]:
    x, w, A, B = torch.randn(2, 5, 4), torch.randn(4, 3), torch.randn(4, 3), torch.randn(2, 5, 1, 3)
    kept, final = torch.randn(1, 2, 3, 4), torch.randn(2, 4, 3)
    t = _token()
    scan = (x, x, A, B, B, None, x, None, number, None, None, False)
    direction = [x, x, torch.randn(4, 4), torch.randn(4), A, B[:, :, 0], B[:, :, 0], torch.randn(4)]
    return {
        "causal_conv1d": lambda: OPS.causal_conv1d(x, w, None, number, None, None, False),
        "causal_conv1d_backward": lambda: OPS.causal_conv1d_backward(x, None, x, w, None, number, None, None, False),
        "causal_conv1d_update": lambda: OPS.causal_conv1d_update(t["x"], t["cs"], t["w"], None, number),
        "selective_scan": lambda: OPS.selective_scan(*scan, False),
        "selective_scan_backward": lambda: OPS.selective_scan_backward(*scan, kept, x, final),
        "selective_scan_two_way": lambda: OPS.selective_scan_two_way(direction, direction, x, number, 1.0),
        "selective_state_update": lambda: OPS.selective_state_update(
            t["s"], t["x"], t["x"], t["A"], t["B"], t["B"], None, t["x"], None, number
        ),
        "gated_activation": lambda: OPS.gated_activation(x, x, number),
        "two_way_gate": lambda: OPS.two_way_gate(x, x, x, number, 1.0),
    }


@pytest.mark.parametrize("name", _raw_calls(0) if native.LOADED else ())
def test_a_wrong_activation_number_is_named(name):
    _raw_calls(10)[name]()
    for number in (-1, 11, 99):
        with pytest.raises(RuntimeError, match=f"{name}: activation must be a number from 0 to 10, but is {number}"):
            _raw_calls(number)[name]()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.ones(4, 3, dtype=torch.complex64)}, "weight must be float32"),
        ({"weight": torch.ones(4, 3, dtype=torch.int64)}, "weight must be float32"),
        ({"weight": torch.ones(4, 3, dtype=torch.float64)}, "weight must be float32, but is float64"),
        ({"bias": torch.ones(4, dtype=torch.int64)}, "bias must be float32"),
        ({"bias": torch.ones(4, dtype=torch.float16)}, "bias must be float32, but is float16"),
        ({"initial_state": torch.ones(2, 4, 2, dtype=torch.complex64)}, "initial_state must be float32, float64"),
        ({"initial_state": torch.ones(2, 4, 2, dtype=torch.int64)}, "initial_state must be float32, float64"),
    ],
)
def test_the_dtypes_of_a_convolution_are_checked(change, message):
    given = {
        "x": torch.ones(2, 5, 4),
        "weight": torch.ones(4, 3),
        "bias": torch.ones(4),
        "initial_state": None,
    } | change
    x, weight, bias, state = given.values()
    with pytest.raises(RuntimeError, match=f"causal_conv1d: {message}"):
        OPS.causal_conv1d(x, weight, bias, 0, state, None, False)
    with pytest.raises(RuntimeError, match=f"causal_conv1d_backward: {message}"):
        OPS.causal_conv1d_backward(x, None, x, weight, bias, 0, state, None, False)


def _with_grad(name: str) -> None:
    tensors = {key: t.requires_grad_(key not in IN_PLACE[name][0]) for key, t in _token().items()}
    if name == "gated_activation_out":
        tensors["v"].requires_grad_()
    IN_PLACE[name][1](tensors)


@pytest.mark.parametrize("name", IN_PLACE)
def test_updates_refuse_what_needs_a_gradient(name):
    with pytest.raises(RuntimeError, match=f"{name}: it works in place and has no gradient"):
        _with_grad(name)
    with torch.no_grad():
        _with_grad(name)


def test_the_raw_linear_map_has_no_silent_gradient():
    weight = torch.ones(3, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="linear_rows: it has no gradient"):
        OPS.linear_rows(torch.ones(2, 4), weight, None).sum().backward()


def test_tensors_on_two_devices_are_an_error():
    x, meta = torch.ones(2, 5, 4), torch.ones(2, 5, 4, device="meta")
    w, B, state = torch.ones(4, 3), torch.ones(2, 5, 1, 3), torch.ones(2, 4, 3)
    calls: dict[str, Callable[[], Any]] = {
        "causal_conv1d": lambda: OPS.causal_conv1d(x, w.to("meta"), None, 0, None, None, False),
        "selective_scan": lambda: OPS.selective_scan(x, meta, w, B, B, *[None] * 3, 0, None, None, False, False),
        "ssd_scan": lambda: OPS.ssd_scan(meta[..., None], x, w[:, 0], B, B, None, None, 0.0, 1.0, None, None, False),
        "add_norm": lambda: OPS.add_norm(x, meta, w[:, 0], None, 0.0, 1e-5, True, torch.float32),
        "gated_activation": lambda: OPS.gated_activation(x, meta, 0),
        "two_way_gate": lambda: OPS.two_way_gate(x, x, meta, 0, 1.0),
        "linear_rows": lambda: OPS.linear_rows(x, w.T.to("meta"), None),
        "causal_conv1d_update": lambda: OPS.causal_conv1d_update(x[:, 0], state.to("meta"), w, None, 0),
    }
    for name, call in calls.items():
        with pytest.raises(RuntimeError, match=f"{name}: it needs tensors on one device, but was given (cpu|meta) and"):
            call()
    named: tuple[Callable[[], Any], ...] = (
        lambda: causal_conv1d(x, w.to("meta"), None, "silu", backend="native"),
        lambda: selective_scan(x, meta, w, B, B, backend="native"),
        lambda: ssd_scan(x[..., None], meta, w[:, 0], B, B, backend="native"),
        lambda: add_norm(x, meta, w[:, 0], None, 1e-5, "rms", backend="native"),
        lambda: gated_activation(x, meta, "silu", backend="native"),
    )
    for call in named:
        with pytest.raises(BackendUnavailableError, match="it needs tensors on one device, but was given cpu and meta"):
            call()


def test_tensors_without_dimensions_are_named(no_shape_checks):
    one = torch.tensor(1.0)
    with pytest.raises(BackendUnavailableError, match="it needs x with one dimension or more"):
        linear(one, torch.ones(3, 4), backend="native")
    with pytest.raises(RuntimeError, match="at least 1D"):
        linear(one, torch.ones(3, 4))
    with pytest.raises(RuntimeError, match="ssd_scan: x and B must have 4 dimensions"):
        OPS.ssd_scan(one, one, one, one, one, None, None, 0.0, 1.0, None, None, False)
    with pytest.raises(RuntimeError, match="ssd_update: x and B must have 3 dimensions"):
        OPS.ssd_update(one, one, one, one, one, one, None, None, 0.0, 1.0)
    with pytest.raises(RuntimeError, match="selective_scan: A must have shape"):
        OPS.selective_scan(one, one, one, one, one, None, None, None, 0, None, None, False, False)
    A, B = torch.ones(4, 3), torch.ones(2, 1, 3)
    with pytest.raises(RuntimeError, match="selective_state_update: u must have shape"):
        OPS.selective_state_update(one, one, one, A, B, B, None, None, None, 0)


@pytest.mark.parametrize("empty", ["H", "P", "N", "B", "T"])
def test_gradients_of_empty_scans_are_written(empty):
    H, P, N, batch, T = (
        0 if name == empty else size for name, size in {"H": 2, "P": 3, "N": 4, "B": 2, "T": 5}.items()
    )
    B = torch.ones(batch, T, 1, N, requires_grad=True)
    C = torch.ones(batch, T, 1, N, requires_grad=True)
    x, dt, A = torch.ones(batch, T, H, P), torch.ones(batch, T, H), -torch.ones(H)
    for backend in ("native", "torch"):
        y, _ = ssd_scan(x, dt, A, B, C, backend=backend)
        gradients = torch.autograd.grad(y.sum(), (B, C), allow_unused=True)
        if backend == "native":
            found = gradients
    for actual, expected in zip(found, gradients, strict=True):
        torch.testing.assert_close(actual, torch.zeros_like(B) if expected is None else expected)


def test_kept_states_are_as_many_as_the_fakes_say():
    """CHUNK and SEGMENT in Python are kScanChunk and kSsdSegment in csrc."""
    for length in (64, 65):
        x, B = torch.ones(2, length, 4), torch.ones(2, length, 1, 3)
        scan = (x, x, -torch.ones(4, 3), B, B, None, None, None, 0, None, None, False, True)
        ssd = (x[..., None], x, -torch.ones(4), B, B, None, None, 0.0, 1.0, None, None, True)
        for op, arguments in ((OPS.selective_scan, scan), (OPS.ssd_scan, ssd)):
            fakes = op(*(a.to("meta") if isinstance(a, Tensor) else a for a in arguments))
            assert [t.shape for t in op(*arguments)] == [t.shape for t in fakes]
