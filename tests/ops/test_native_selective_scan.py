"""Our own selective scan against the loop over tokens and against plain PyTorch."""

import pytest
import torch

from hybridgen.errors import BackendUnavailableError, UnsupportedError
from hybridgen.ops import native
from hybridgen.ops.activations import ACTIVATIONS
from hybridgen.ops.selective_scan import selective_scan, selective_state_update
from hybridgen.ops.selective_scan.reference import selective_scan_reference
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.skipif(not native.LOADED, reason="hybridgen's extension is not built")

# (batch, T, D, N, G): tails of vectors, of blocks of states and of chunks; groups of one channel; nothing at all.
SIZES = [
    (2, 130, 37, 5, 1),
    (1, 64, 32, 16, 1),
    (3, 70, 36, 4, 3),
    (2, 33, 6, 1, 6),
    (1, 1, 16, 17, 1),
    (1, 200, 70, 19, 2),
    (1, 3, 5, 256, 1),
    (0, 5, 4, 2, 1),
    (2, 0, 4, 3, 1),
]
SEQUENCES = ("u", "dt", "B", "C", "z")


def _arguments(batch, T, D, N, G, dtype=torch.float32, full=True, seed=0):
    """Inputs as a layer makes them: u, dt and z are thirds of one projection, the others have the compute dtype."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape, dtype=dtype):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    compute = torch.float64 if dtype == torch.float64 else torch.float32
    u, dt, z = rand(batch, T, 3 * D).chunk(3, dim=-1)
    B, C = rand(batch, T, G, 2 * N).chunk(2, dim=-1)
    found = {"u": u, "dt": dt, "A": -rand(D, N, dtype=compute).exp(), "B": B, "C": C}
    if full:
        found |= {"D": rand(D, dtype=compute), "z": z, "dt_bias": rand(D, dtype=compute)}
        found |= {"initial_state": rand(batch, D, N, dtype=compute)}
        found |= {"resets": torch.rand(batch, T, generator=generator) < 0.05}
    return found


def _wide(arguments):
    return {
        name: t.detach().double() if torch.is_tensor(t) and t.is_floating_point() else t
        for name, t in arguments.items()
    }


def _leaves(arguments):
    return [t.requires_grad_() for t in arguments.values() if torch.is_tensor(t) and t.is_floating_point()]


def _gradients(function, arguments, seed=3, **options):
    inputs = _leaves(arguments)
    y, state = function(**arguments, **options)
    generator = torch.Generator().manual_seed(seed)
    grads = [torch.randn(t.shape, generator=generator).to(t.dtype) for t in (y, state)]
    return torch.autograd.grad((y, state), inputs, grads)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("full", [True, False], ids=["everything", "required"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_reference(size, full, dtype):
    arguments = _arguments(*size, dtype=dtype, full=full)
    for reverse in (False, True):
        y, state = selective_scan(**arguments, reverse=reverse, backend="native")
        expected, expected_state = selective_scan_reference(**_wide(arguments), reverse=reverse)
        assert y.dtype == dtype
        assert_close(y, expected.to(dtype))
        assert_close(state, expected_state.to(state.dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("full", [True, False], ids=["everything", "required"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gradients_equal_those_of_the_reference(size, full, dtype):
    arguments = _arguments(*size, dtype=dtype, full=full)
    for reverse in (False, True):
        found = _gradients(selective_scan, arguments, reverse=reverse, backend="native")
        if size[1]:
            expected = _gradients(selective_scan_reference, _wide(arguments), reverse=reverse)
        else:  # the reference's result has no gradient
            expected = _gradients(selective_scan, _wide(arguments), reverse=reverse, backend="torch")
        for name, a, e in zip(arguments, found, expected, strict=False):
            # A gradient is a sum over tokens and channels: its error counts against its largest value.
            size_of = max(1.0, float(e.abs().max())) if e.numel() else 1.0
            assert_close(a / size_of, (e / size_of).to(a.dtype), dtype=dtype, what=name)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_plain_path_runs_in_reverse_too(reverse):
    arguments = _arguments(2, 50, 6, 3, 2, dtype=torch.float64)
    found = selective_scan(**arguments, reverse=reverse, backend="torch")
    for a, e in zip(found, selective_scan_reference(**arguments, reverse=reverse), strict=True):
        assert_close(a, e)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_any_gate(activation):
    arguments = _arguments(2, 70, 20, 4, 1) | {"gate_activation": activation}
    results = [selective_scan(**arguments, backend=name) for name in ("native", "torch")]
    assert_close(results[0][0], results[1][0])
    gradients = [_gradients(selective_scan, arguments, backend=name) for name in ("native", "torch")]
    for a, e in zip(*gradients, strict=True):
        assert_close(a / (1 + e.abs().max()), e / (1 + e.abs().max()))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("full", [True, False], ids=["everything", "required"])
def test_gradcheck(full, reverse):
    arguments = _arguments(2, 67, 5, 3, 1, dtype=torch.float64, full=full)
    names = [name for name in arguments if name != "resets"]
    resets = arguments.get("resets")

    def run(*tensors):
        return selective_scan(
            **dict(zip(names, tensors, strict=True)), resets=resets, reverse=reverse, backend="native"
        )

    assert torch.autograd.gradcheck(run, [arguments[n].clone().requires_grad_() for n in names], fast_mode=True)


def _op_arguments(full, grad=True, T=70):
    a = _arguments(2, T, 20, 5, 2, full=full)
    if grad:
        a = {n: t.clone().requires_grad_() if t.is_floating_point() else t for n, t in a.items()}
    names = ("u", "dt", "A", "B", "C", "D", "z", "dt_bias")
    return [*(a.get(name) for name in names), 0, a.get("initial_state"), a.get("resets"), True]


@pytest.mark.parametrize("full", [True, False], ids=["everything", "required"])
def test_opcheck(full):
    torch.library.opcheck(native.OPS.selective_scan.default, (*_op_arguments(full), True))
    arguments = _op_arguments(full, grad=False)
    y, state, kept = native.OPS.selective_scan(*arguments, True)
    backward = (*arguments, kept, torch.ones_like(y), torch.ones_like(state))
    torch.library.opcheck(native.OPS.selective_scan_backward.default, backward)
    u, dt, A, B, C, D, z, dt_bias = (None if t is None else (t[:, 0] if t.dim() > 2 else t) for t in arguments[:8])
    update = (torch.randn(2, 20, 5), u, dt, A, B, C, D, z, dt_bias, 0)
    torch.library.opcheck(native.OPS.selective_state_update.default, update)


def test_compiled_equals_eager(no_shape_checks):
    torch.compiler.reset()
    arguments = _arguments(2, 70, 20, 5, 2)
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager")
    for options in ({"backend": "native"}, {"backend": "native", "reverse": True}):
        for a, e in zip(compiled(**arguments, **options), selective_scan(**arguments, **options), strict=True):
            assert torch.equal(a, e)
        found, expected = (_gradients(f, arguments, **options) for f in (compiled, selective_scan))
        for a, e in zip(found, expected, strict=True):
            assert_close(a, e)
        arguments = {name: t.detach() for name, t in arguments.items()}

    step = torch.compile(selective_state_update, fullgraph=True, backend="aot_eager")
    tokens = {n: t[:, 0] if n in SEQUENCES else t for n, t in arguments.items() if n not in ("resets", "initial_state")}
    states = [arguments["initial_state"].clone() for _ in range(2)]
    with torch.no_grad():
        results = [
            f(state, **tokens, backend="native")
            for f, state in zip((step, selective_state_update), states, strict=True)
        ]
    assert torch.equal(*results)
    assert torch.equal(*states)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("full", [True, False], ids=["everything", "required"])
@pytest.mark.parametrize(
    "size", [(2, 37, 5, 1), (1, 32, 16, 1), (3, 36, 4, 3), (2, 6, 1, 6), (1, 70, 35, 2), (0, 4, 2, 1)]
)
def test_one_token_equals_plain(size, full, dtype):
    batch, D, N, G = size
    arguments = _arguments(batch, 2, D, N, G, dtype=dtype, full=full)
    state = arguments.pop("initial_state", torch.zeros(batch, D, N, dtype=arguments["A"].dtype))
    arguments.pop("resets", None)
    # A state whose memory is not (B, D, N) is also written in place.
    states = [state.clone(), state.clone(), state.mT.contiguous().mT]
    tokens = {n: t[:, 1] if n in SEQUENCES else t for n, t in arguments.items()}
    expected = selective_state_update(states[0], **tokens, backend="torch")
    for given in states[1:]:
        assert_close(selective_state_update(given, **tokens, backend="native"), expected)
        assert_close(given, states[0])


def test_steps_continue_a_scan():
    arguments = _arguments(2, 40, 33, 16, 1)
    resets, state = arguments.pop("resets"), arguments.pop("initial_state")
    del resets
    whole, end = selective_scan(**arguments, initial_state=state, backend="native")
    head = {n: t[:, :30] if n in SEQUENCES else t for n, t in arguments.items()}
    _, state = selective_scan(**head, initial_state=state, backend="native")
    for t in range(30, 40):
        token = {n: x[:, t] if n in SEQUENCES else x for n, x in arguments.items()}
        assert_close(selective_state_update(state, **token, backend="native"), whole[:, t])
    assert_close(state, end)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", [*SEQUENCES, "initial_state"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_a_number_goes_where_it_goes_in_plain_and_stops_at_resets(name, value, reverse):
    arguments = _arguments(1, 150, 20, 5, 1)
    arguments["resets"] = torch.zeros(1, 150, dtype=torch.bool)
    arguments["resets"][:, [60, 100]] = True
    arguments = {n: t.clone() for n, t in arguments.items()}
    where = (0, 3, 2) if name == "initial_state" else (0, 80)
    arguments[name][where] = value
    found, expected = (selective_scan(**arguments, reverse=reverse, backend=b) for b in ("native", "torch"))
    for a, e in zip(found, expected, strict=True):
        assert torch.equal(a.isfinite(), e.isfinite())
        assert_close(a.nan_to_num(0, 0, 0), e.nan_to_num(0, 0, 0))
    gradients = _gradients(selective_scan, arguments, reverse=reverse, backend="native")
    ill = {(False, False): (60, 100), (True, False): (0, 60), (True, True): (100, 150)}
    first, last = ill.get((name == "initial_state", reverse), (60, 100))
    for n, gradient in zip(arguments, gradients, strict=False):
        if n in SEQUENCES:
            assert gradient[:, :first].isfinite().all()
            assert gradient[:, last:].isfinite().all()


def test_equal_bits_from_run_to_run():
    arguments = _arguments(1, 300, 100, 16, 1)
    first, second = (_gradients(selective_scan, arguments, backend="native") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("factor", [1e4, 1e30])
def test_huge_decays_stay_finite(factor):
    arguments = _arguments(1, 200, 20, 16, 1, full=False)
    arguments["dt"] = arguments["dt"] * factor
    arguments["u"] = arguments["u"] / factor
    y, _ = selective_scan(**arguments, backend="native")
    assert_close(y, selective_scan_reference(**_wide(arguments))[0].float())
    assert all(g.isfinite().all() for g in _gradients(selective_scan, arguments, backend="native"))


def test_a_hundred_thousand_tokens_stay_finite():
    arguments = _arguments(1, 100_000, 16, 2, 1, full=False)
    assert all(g.isfinite().all() for g in _gradients(selective_scan, arguments, backend="native"))


def test_only_one_result_may_be_used():
    for chosen in (0, 1):
        results = []
        for name in ("native", "torch"):
            arguments = _arguments(2, 33, 6, 3, 1)
            inputs = _leaves(arguments)
            grads = torch.autograd.grad(
                selective_scan(**arguments, backend=name)[chosen].sum(), inputs, allow_unused=True
            )
            results.append([torch.zeros_like(t) if g is None else g for g, t in zip(grads, inputs, strict=True)])
        for a, e in zip(*results, strict=True):
            assert_close(a, e, what=str(chosen))


def test_calls_beyond_the_kernel_are_named():
    arguments = _arguments(1, 4, 6, 3, 1)
    with pytest.raises(BackendUnavailableError, match=r"one dtype, but was given torch\.float32 and torch\.bfloat16"):
        selective_scan(**arguments | {"B": arguments["B"].bfloat16()}, backend="native")
    with pytest.raises(BackendUnavailableError, match="its state size N is 1 to 256, but A has 257"):
        selective_scan(**_arguments(1, 4, 6, 257, 1), backend="native")
    with pytest.raises(UnsupportedError, match="no activation is called 'swosh'"):
        selective_scan(**arguments, gate_activation="swosh", backend="native")
    tokens = {n: t[:, 0] if n in SEQUENCES else t for n, t in arguments.items() if n not in ("resets", "initial_state")}
    with pytest.raises(BackendUnavailableError, match=r"it needs the state in torch\.float32, but was given torch\.bf"):
        selective_state_update(arguments["initial_state"].bfloat16(), **tokens, backend="native")
    tokens["u"] = tokens["u"].clone().requires_grad_()
    with pytest.raises(BackendUnavailableError, match=r"it has no gradient; call it under torch\.no_grad\(\)"):
        selective_state_update(arguments["initial_state"], **tokens, backend="native")


def test_wrong_calls_of_the_operator_are_named():
    arguments = _op_arguments(full=True, grad=False)
    arguments[1] = arguments[1][:, :-1]
    with pytest.raises(RuntimeError, match=r"selective_scan: dt must have shape \(2, 70, 20\), but has \(2, 69, 20\)"):
        native.OPS.selective_scan(*arguments, False)
    arguments = _op_arguments(full=True, grad=False)
    arguments[2] = arguments[2].double()
    with pytest.raises(RuntimeError, match="selective_scan: A must be float32, but is float64"):
        native.OPS.selective_scan(*arguments, False)
