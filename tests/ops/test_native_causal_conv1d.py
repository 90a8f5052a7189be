"""Our own causal convolution against the loop over tokens and against plain PyTorch."""

import pytest
import torch

from hybridgen.errors import BackendUnavailableError, UnsupportedError
from hybridgen.ops import native
from hybridgen.ops.activations import ACTIVATIONS
from hybridgen.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from hybridgen.ops.causal_conv1d.reference import causal_conv1d_reference
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.skipif(not native.LOADED, reason="hybridgen's extension is not built")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
BOTH_WAYS = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
BOTH_FORMS = pytest.mark.parametrize("full", [True, False], ids=["everything", "required"])
# (batch, T, C, K): tails of vectors, several blocks of 256 channels, several chunks of 64 and 256 tokens; fewer tokens
# than taps; nothing at all.
SIZES = [
    (2, 130, 37, 4),
    (1, 290, 5, 2),
    (1, 70, 300, 3),
    (3, 33, 64, 1),
    (1, 280, 20, 7),
    (2, 3, 270, 7),
    (3, 1, 16, 4),
    (1, 40, 3, 70),
    (0, 5, 4, 4),
    (2, 0, 4, 3),
    (2, 5, 0, 3),
]


def _arguments(batch, T, C, K, dtype=torch.float32, full=True, resets=None, seed=0):
    """Inputs as a layer makes them: x is half of one projection; parameters in x's dtype or that of the arithmetic."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape, dtype=dtype):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    parameters = torch.float32 if full and dtype != torch.float64 else dtype
    found = {"x": rand(batch, T, 2 * C).chunk(2, dim=-1)[1], "weight": rand(C, K, dtype=parameters)}
    if not full:
        return found | {"bias": None, "activation": "silu"}
    found |= {"bias": rand(C, dtype=parameters), "activation": "silu", "initial_state": rand(batch, C, K - 1)}
    if resets is None:
        return found | {"resets": torch.rand(batch, T, generator=generator) < 0.08}
    begins = torch.zeros(batch, T, dtype=torch.bool)
    begins[:, resets] = True
    return found | {"resets": begins}


def _wide(arguments):
    return {
        name: t.detach().double() if torch.is_tensor(t) and t.is_floating_point() else t
        for name, t in arguments.items()
    }


def _leaves(arguments):
    return [t.requires_grad_() for t in arguments.values() if torch.is_tensor(t) and t.is_floating_point()]


def _gradients(function, arguments, seed=3, **options):
    inputs = _leaves(arguments)
    results = function(**arguments, **options)
    generator = torch.Generator().manual_seed(seed)
    # The same numbers in every dtype.
    grads = [torch.randn(t.shape, generator=generator).bfloat16().half().to(t.dtype) for t in results]
    return torch.autograd.grad(results, inputs, grads, allow_unused=True)


def _reference(x, resets=None, reverse=False, **others):
    """The loop over tokens; backwards, a sequence begins where its last token was."""
    if not reverse:
        return causal_conv1d_reference(x, resets=resets, **others)
    if resets is not None:
        resets = torch.cat([resets[:, 1:], torch.zeros_like(resets[:, :1])], dim=1).flip(1)
    y, state = causal_conv1d_reference(x.flip(1), resets=resets, **others)
    return y.flip(1), state


def _assert_close_sums(found, expected):
    """A gradient is a sum over tokens: its error counts against its largest value."""
    for a, e in zip(found, expected, strict=True):
        scale = 1 + (e.abs().max() if e.numel() else 0)
        assert_close(a / scale, (e / scale).to(a.dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@BOTH_FORMS
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_reference(size, full, dtype):
    arguments = _arguments(*size, dtype=dtype, full=full)
    for reverse in (False, True):
        y, state = causal_conv1d(**arguments, reverse=reverse, backend="native")
        if size[0] and size[1]:
            expected, expected_state = _reference(**_wide(arguments), reverse=reverse)
        else:  # nothing for the reference to stack
            expected, expected_state = causal_conv1d(**_wide(arguments), reverse=reverse, backend="torch")
        assert y.dtype == state.dtype == dtype
        assert state.is_contiguous()
        assert_close(y, expected.to(dtype))
        assert torch.equal(state, expected_state.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@BOTH_FORMS
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gradients_equal_those_of_plain(size, full, dtype):
    arguments = _arguments(*size, dtype=dtype, full=full)
    for reverse in (False, True):
        found = _gradients(causal_conv1d, arguments, reverse=reverse, backend="native")
        expected = _gradients(causal_conv1d, _wide(arguments), reverse=reverse, backend="torch")
        for gradient, given in zip(found, _leaves(arguments), strict=True):
            assert gradient.dtype == given.dtype
        _assert_close_sums(found, expected)


@BOTH_WAYS
def test_gradients_equal_those_of_the_reference(reverse):
    arguments = _arguments(2, 90, 19, 4, dtype=torch.float64)
    found = _gradients(causal_conv1d, arguments, reverse=reverse, backend="native")
    _assert_close_sums(found, _gradients(_reference, arguments, reverse=reverse))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_any_activation(activation):
    for dtype in (torch.float32, torch.bfloat16):
        arguments = _arguments(2, 70, 20, 4, dtype=dtype) | {"activation": activation}
        y, _ = causal_conv1d(**arguments, backend="native")
        assert_close(y, causal_conv1d(**_wide(arguments), backend="torch")[0].to(dtype))
        found = _gradients(causal_conv1d, arguments, backend="native")
        _assert_close_sums(found, _gradients(causal_conv1d, _wide(arguments), backend="torch"))


@BOTH_WAYS
def test_any_strides(reverse):
    whole = _arguments(3, 50, 21, 4)
    x = whole["x"].contiguous()
    expected = causal_conv1d(**whole | {"x": x}, reverse=reverse, backend="native")
    expected_gradients = _gradients(causal_conv1d, whole | {"x": x}, reverse=reverse, backend="native")
    kinds = (x.mT.contiguous().mT, x.transpose(0, 1).contiguous().transpose(0, 1), x.repeat_interleave(2, 2)[..., ::2])
    for given in kinds:
        arguments = whole | {"x": given.detach(), "weight": whole["weight"].detach().T.contiguous().T}
        for a, e in zip(causal_conv1d(**arguments, reverse=reverse, backend="native"), expected, strict=True):
            assert torch.equal(a, e)
        found = _gradients(causal_conv1d, arguments, reverse=reverse, backend="native")
        assert all(torch.equal(a, e) for a, e in zip(found, expected_gradients, strict=True))

    same = whole | {"x": x.detach()[:1, :1].expand(3, 50, 21)}
    a, e = (causal_conv1d(**same, reverse=reverse, backend=name)[0] for name in ("native", "torch"))
    assert_close(a, e)


@BOTH_WAYS
@BOTH_FORMS
def test_gradcheck(full, reverse):
    arguments = _arguments(2, 67, 5, 4, dtype=torch.float64, full=full)
    names = [name for name, t in arguments.items() if torch.is_tensor(t) and name != "resets"]

    def run(*tensors):
        given = arguments | dict(zip(names, tensors, strict=True))
        return causal_conv1d(**given, reverse=reverse, backend="native")

    assert torch.autograd.gradcheck(run, [arguments[n].clone().requires_grad_() for n in names], fast_mode=True)


@BOTH_FORMS
def test_opcheck(full):
    a = _arguments(2, 70, 20, 4, full=full)
    state, resets = a.get("initial_state"), a.get("resets")
    arguments = [a["x"].clone(), a["weight"], a["bias"], 0, state, resets, False]
    y, final = native.OPS.causal_conv1d(*arguments)
    backward = (torch.ones_like(y), torch.ones_like(final) if full else None, *arguments)
    torch.library.opcheck(native.OPS.causal_conv1d_backward.default, backward)
    update = (a["x"][:, 0], torch.randn(2, 20, 3), a["weight"], a["bias"], 0)
    torch.library.opcheck(native.OPS.causal_conv1d_update.default, update)
    with_grad = [t.clone().requires_grad_() if torch.is_tensor(t) and t.is_floating_point() else t for t in arguments]
    torch.library.opcheck(native.OPS.causal_conv1d.default, tuple(with_grad))


def test_compiled_equals_eager(no_shape_checks):
    torch.compiler.reset()
    arguments = _arguments(2, 70, 20, 4)
    compiled = torch.compile(causal_conv1d, fullgraph=True, backend="aot_eager")
    for options in ({"backend": "native"}, {"backend": "native", "reverse": True}):
        with torch.no_grad():
            for a, e in zip(compiled(**arguments, **options), causal_conv1d(**arguments, **options), strict=True):
                assert torch.equal(a, e)
        found, expected = (_gradients(f, arguments, **options) for f in (compiled, causal_conv1d))
        for a, e in zip(found, expected, strict=True):
            assert_close(a, e)
        arguments = {name: t.detach() if torch.is_tensor(t) else t for name, t in arguments.items()}

    step = torch.compile(causal_conv1d_update, fullgraph=True, backend="aot_eager")
    token = (arguments["weight"], arguments["bias"], "silu", "native")
    states = [arguments["initial_state"].clone() for _ in range(2)]
    with torch.no_grad():
        results = [
            f(arguments["x"][:, 0], state, *token)
            for f, state in zip((step, causal_conv1d_update), states, strict=True)
        ]
    assert torch.equal(*results)
    assert torch.equal(*states)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@BOTH_FORMS
@pytest.mark.parametrize(
    "size", [(2, 37, 4), (1, 300, 2), (3, 16, 3), (2, 70, 1), (3, 530, 7), (0, 4, 3), (2, 0, 3), (2, 9000, 4)], ids=str
)
def test_one_token_equals_plain(size, full, dtype):
    batch, C, K = size
    arguments = _arguments(batch, 2, C, K, dtype=dtype, full=full)
    state = arguments.pop("initial_state", torch.zeros(batch, C, K - 1, dtype=dtype))
    arguments.pop("resets", None)
    arguments["x"] = arguments["x"][:, 1]
    # A part of a larger cache is also written in place.
    part = torch.zeros(batch, 2 * C, K + 1, dtype=dtype)[:, ::2, : K - 1].copy_(state)
    states = [state.double(), state.clone(), part]
    wide = _wide(arguments)
    expected = causal_conv1d_update(state=states[0], **wide, backend="torch").to(dtype)
    for given in states[1:]:
        assert_close(causal_conv1d_update(state=given, **arguments, backend="native"), expected)
        assert torch.equal(given, states[0].to(dtype))


@pytest.mark.parametrize("K", [1, 2, 4, 7])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_steps_continue_a_sequence(activation, K):
    arguments = _arguments(2, 20, 33, K) | {"activation": activation}
    del arguments["resets"]
    whole, end = causal_conv1d(**arguments, backend="native")
    x, state = arguments.pop("x"), arguments.pop("initial_state").clone()
    _, state = causal_conv1d(x[:, :12], **arguments, initial_state=state, backend="native")
    for t in range(12, 20):
        assert_close(causal_conv1d_update(x[:, t], state, **arguments, backend="native"), whole[:, t])
    assert torch.equal(state, end)


@BOTH_WAYS
@pytest.mark.parametrize("name", ["x", "initial_state", "grad"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_a_number_goes_where_it_goes_in_plain_and_stops_at_resets(name, value, reverse):
    # The bad number stands at the end of its sequence, where K-1 tokens of the next one would see it.
    T, ill = 150, 60 if reverse else 99
    arguments = _arguments(1, T, 20, 4, resets=[1, 60, 100, T - 1])
    arguments = {n: t.clone() if torch.is_tensor(t) else t for n, t in arguments.items()}
    grad = torch.ones(1, T, 20)
    if name == "grad":
        first, last = 60, 100
        grad[0, 99 if reverse else 60, 2] = value
    elif name == "x":
        first, last = 60, 100
        arguments["x"][0, ill, 2] = value
    else:
        first, last = (T - 1, T) if reverse else (0, 1)
        arguments["initial_state"][0, 3, 2] = value

    gradients = []
    for backend in ("native", "torch"):
        inputs = _leaves(arguments)
        y, state = causal_conv1d(**arguments, reverse=reverse, backend=backend)
        gradients.append((y, state, *torch.autograd.grad((y, state), inputs, (grad, torch.ones_like(state)))))
    for a, e in zip(*gradients, strict=True):
        assert torch.equal(a.isfinite(), e.isfinite())
        assert_close(a.nan_to_num(0, 0, 0), e.nan_to_num(0, 0, 0))
    for sequence in (gradients[0][0], gradients[0][2]):  # y and the gradient of x
        assert sequence[:, :first].isfinite().all()
        assert sequence[:, last:].isfinite().all()


def test_equal_bits_from_run_to_run():
    arguments = _arguments(2, 600, 300, 4)
    first, second = (_gradients(causal_conv1d, arguments, backend="native") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_equal_bits_with_and_without_gradients():
    arguments = _arguments(2, 70, 20, 4)
    _leaves(arguments)
    with_gradients = causal_conv1d(**arguments, backend="native")
    assert all(t.requires_grad for t in with_gradients)
    with torch.no_grad():
        without = causal_conv1d(**arguments, backend="native")
    assert not any(t.requires_grad for t in without)
    assert all(torch.equal(a, b) for a, b in zip(with_gradients, without, strict=True))


@pytest.mark.parametrize("chosen", [0, 1])
def test_only_one_result_may_be_used(chosen):
    results = []
    for name in ("native", "torch"):
        arguments = _arguments(2, 33, 6, 3)
        inputs = _leaves(arguments)
        y = causal_conv1d(**arguments, backend=name)[chosen]
        grads = torch.autograd.grad(y.sum(), inputs, allow_unused=True)
        results.append([torch.zeros_like(t) if g is None else g for g, t in zip(grads, inputs, strict=True)])
    for a, e in zip(*results, strict=True):
        assert_close(a, e)


def test_calls_beyond_the_kernel_are_named():
    arguments = _arguments(1, 4, 6, 4)
    with pytest.raises(BackendUnavailableError, match=r"x is torch\.bfloat16 and weight is torch\.float64"):
        causal_conv1d(
            **arguments | {"x": arguments["x"].bfloat16(), "weight": arguments["weight"].double()}, backend="native"
        )
    with pytest.raises(BackendUnavailableError, match=r"bias and weight in one dtype, but they are torch\.bfloat16"):
        causal_conv1d(**arguments | {"bias": arguments["bias"].bfloat16()}, backend="native")
    with pytest.raises(UnsupportedError, match="no activation is called 'swosh'"):
        causal_conv1d(**arguments | {"activation": "swosh"}, backend="native")

    token, state = arguments["x"][:, 0], arguments["initial_state"]
    others = (arguments["weight"], arguments["bias"], "silu", "native")
    with pytest.raises(BackendUnavailableError, match=r"x and state in one dtype, but they are torch\.float32 and"):
        causal_conv1d_update(token, state.bfloat16(), *others)
    with pytest.raises(BackendUnavailableError, match="it needs state dense in its last dimension"):
        causal_conv1d_update(token, state.mT.contiguous().mT, *others)
    with pytest.raises(BackendUnavailableError, match=r"it has no gradient; call it under torch\.no_grad\(\)"):
        causal_conv1d_update(token.clone().requires_grad_(), state, *others)


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        (0, lambda x: x[0], r"causal_conv1d: x must have shape \(B, T, C\), but has \(4, 6\)"),
        (1, lambda w: w[:, 0], r"causal_conv1d: weight must have shape \(C, K\), but has \(6\)"),
        (1, lambda w: w[:, :0], r"causal_conv1d: weight must have at least one tap, but has shape \(6, 0\)"),
        (1, lambda w: w[:5], r"causal_conv1d: weight must have shape \(6, 4\), but has \(5, 4\)"),
        (2, lambda b: b[:5], r"causal_conv1d: bias must have shape \(6\), but has \(5\)"),
        (4, lambda s: s[..., :2], r"causal_conv1d: initial_state must have shape \(1, 6, 3\), but has \(1, 6, 2\)"),
        (5, lambda r: r[:, :2], r"causal_conv1d: resets must have shape \(1, 4\), but has \(1, 2\)"),
        (5, lambda r: r.float(), "causal_conv1d: resets must be bool, but is float32"),
    ],
)
def test_wrong_calls_of_the_operator_are_named(place, wrong, message):
    a = _arguments(1, 4, 6, 4)
    arguments = [a["x"], a["weight"], a["bias"], 0, a["initial_state"], a["resets"], False]
    arguments[place] = wrong(arguments[place])
    with pytest.raises(RuntimeError, match=message):
        native.OPS.causal_conv1d(*arguments)


def test_wrong_calls_of_backward_and_update_are_named():
    a = _arguments(1, 4, 6, 4)
    arguments = (a["x"], a["weight"], a["bias"], 0, a["initial_state"], a["resets"], False)
    with pytest.raises(RuntimeError, match=r"causal_conv1d_backward: grad must have shape \(1, 4, 6\), but has"):
        native.OPS.causal_conv1d_backward(a["x"][:, 1:], None, *arguments)
    with pytest.raises(RuntimeError, match="causal_conv1d_backward: grad must be float32, but is bfloat16"):
        native.OPS.causal_conv1d_backward(a["x"].bfloat16(), None, *arguments)
    token, state, weight = a["x"][:, 0], a["initial_state"], a["weight"]
    with pytest.raises(RuntimeError, match=r"causal_conv1d_update: state must have shape \(1, 6, 3\), but has"):
        native.OPS.causal_conv1d_update(token, state[:, :5], weight, None, 0)
    with pytest.raises(RuntimeError, match="causal_conv1d_update: weight must be float32, but is float64"):
        native.OPS.causal_conv1d_update(token, state, weight.double(), None, 0)
    with pytest.raises(RuntimeError, match="causal_conv1d_update: state must be dense in its last dimension"):
        native.OPS.causal_conv1d_update(token, state.mT.contiguous().mT, weight, None, 0)
