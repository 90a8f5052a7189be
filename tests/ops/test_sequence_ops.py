"""What holds for every operator over a sequence: its reference, its gradient, its state, packed sequences."""

from itertools import pairwise, product

import pytest
import torch

from tests.helpers.op_cases import OP_CASES, OpCase, random_resets
from tests.helpers.tolerances import assert_close

CASES = pytest.mark.parametrize("case", OP_CASES.values(), ids=OP_CASES)
MODES = {"fresh": (False, False), "state": (True, False), "resets": (False, True), "state-resets": (True, True)}


def _extras(case: OpCase, T: int, state: bool, resets: bool) -> dict[str, torch.Tensor]:
    extras = {"initial_state": case.initial_state()} if state else {}
    return extras | ({"resets": random_resets(T)} if resets else {})


def _gradients(outputs: tuple[torch.Tensor, ...], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    weights = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape) for y in outputs]
    total = sum((y * w).sum() for y, w in zip(outputs, weights, strict=True))
    if not total.requires_grad:
        return [torch.zeros_like(t) for t in inputs]
    return list(torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True))


@CASES
@pytest.mark.parametrize(
    ("T", "mode"), [*product((0, 1, 2, 65), MODES), *product((63, 64, 257), ("fresh", "state-resets"))]
)
def test_matches_reference_with_gradients(case, T, mode):
    arguments = case.arguments(T)
    extras = _extras(case, T, *MODES[mode])
    inputs = [t.requires_grad_() for t in [*arguments.values(), *extras.values()] if t.is_floating_point()]
    actual, expected = case(arguments, **extras), case.expected(arguments, **extras)
    for name, a, e in zip(("y", "state"), actual, expected, strict=True):
        assert a.dtype == torch.float64
        assert_close(a, e, what=name)
    names = [*arguments, "initial_state"]
    for name, a, e in zip(names, _gradients(actual, inputs), _gradients(expected, inputs), strict=False):
        assert_close(a, e, what=f"gradient of {name}")


@CASES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_lower_precision_is_computed_in_float32(case, dtype):
    T = 65
    arguments = case.arguments(T, dtype=dtype)
    state_dtype = dtype if "weight" in arguments else torch.float32
    extras = {"initial_state": case.initial_state(dtype=state_dtype), "resets": random_resets(T)}
    y, state = case(arguments, **extras)
    y_expected, state_expected = case.expected(arguments, **extras)
    assert (y.dtype, state.dtype) == (dtype, state_dtype)
    assert_close(y, y_expected, what="y")
    assert_close(state, state_expected, what="state")


@CASES
def test_gradcheck(case):
    arguments = case.arguments(5)
    resets = torch.zeros(2, 5, dtype=torch.bool)
    resets[0, 3] = True
    names, tensors = list(arguments), [*arguments.values(), case.initial_state()]

    def function(*values):
        *rest, state = values
        return case(dict(zip(names, rest, strict=True)), initial_state=state, resets=resets)

    assert torch.autograd.gradcheck(function, [t.requires_grad_() for t in tensors], fast_mode=True)


@CASES
@pytest.mark.parametrize("lengths", [[1, 3, 17, 44], [64, 1], [0, 33, 32]], ids=str)
def test_pieces_with_carried_state_equal_the_whole(case, lengths):
    arguments = case.arguments(sum(lengths))
    whole, final = case(arguments)
    state, pieces, first = None, [], 0
    for length in lengths:
        tokens = slice(first, first + length)
        piece, state = case(case.along_time(arguments, lambda t, s=tokens: t[:, s]), initial_state=state)
        pieces.append(piece)
        first += length
    assert_close(torch.cat(pieces, 1), whole)
    assert_close(state, final)


@CASES
@pytest.mark.parametrize("lengths", [[5, 1, 59], [64, 64, 2], [1, 1, 1, 40]], ids=str)
def test_packed_sequences_equal_sequences_apart(case, lengths):
    arguments = case.arguments(sum(lengths))
    starts = torch.tensor([0, *lengths]).cumsum(0)
    resets = torch.zeros(2, sum(lengths), dtype=torch.bool)
    resets[:, starts[1:-1]] = True
    start = case.initial_state()
    packed, final = case(arguments, initial_state=start, resets=resets)
    for i, (first, last) in enumerate(pairwise(starts)):
        alone = case.along_time(arguments, lambda t, f=first, e=last: t[:, f:e])
        y, state = case(alone, initial_state=start if i == 0 else None)
        assert_close(packed[:, first:last], y, what=f"sequence {i}")
    assert_close(final, state)


@CASES
def test_a_reset_at_the_first_token_drops_the_initial_state(case):
    arguments = case.arguments(5)
    resets = torch.zeros(2, 5, dtype=torch.bool)
    resets[:, 0] = True
    y, state = case(arguments, initial_state=case.initial_state(), resets=resets)
    y_fresh, state_fresh = case(arguments)
    assert_close(y, y_fresh)
    assert_close(state, state_fresh)


@pytest.mark.parametrize("case", [OP_CASES["conv"], OP_CASES["scan-groups"]], ids=["conv", "scan"])
def test_not_even_nan_leaks_across_a_reset(case):
    arguments = case.arguments(40)
    inputs = next(iter(arguments))
    clean, _ = case(arguments)
    arguments[inputs][:, :20] = torch.nan
    resets = torch.zeros(2, 40, dtype=torch.bool)
    resets[:, 20] = True
    arguments[inputs].requires_grad_()
    y, state = case(arguments, resets=resets)
    assert clean.isfinite().all()
    assert y[:, 20:].isfinite().all()
    assert state.isfinite().all()
    (gradient,) = torch.autograd.grad(y[:, 20:].sum(), arguments[inputs])
    assert gradient[:, 20:].isfinite().all()


@CASES
def test_one_token_update_in_place_equals_the_scan(case):
    arguments = case.arguments(9)
    y, final = case(arguments, initial_state=case.initial_state())
    state = case.initial_state()
    memory = state.data_ptr()
    with torch.no_grad():
        steps = [case.step(state, arguments, t) for t in range(9)]
    assert_close(torch.stack(steps, 1), y)
    assert_close(state, final)
    assert state.data_ptr() == memory


@CASES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_token_update_keeps_the_dtypes(case, dtype):
    arguments = case.arguments(1, dtype=dtype)
    state = case.initial_state(dtype=dtype if "weight" in arguments else torch.float32)
    expected, _ = case.expected(arguments, initial_state=state)
    with torch.no_grad():
        y = case.step(state, arguments, 0)
    assert y.dtype == dtype
    assert_close(y, expected[:, 0])


@CASES
def test_gradients_flow_through_one_token_updates(case):
    arguments = case.arguments(4)
    inputs = [t.requires_grad_() for t in arguments.values()]
    start = case.initial_state()
    expected = _gradients(case(arguments, initial_state=start), inputs)
    state = start.clone()
    y = torch.stack([case.step(state, arguments, t) for t in range(4)], 1)
    for name, a, e in zip(arguments, _gradients((y, state), inputs), expected, strict=True):
        assert_close(a, e, what=f"gradient of {name}")


@CASES
def test_rows_of_a_batch_are_independent(case):
    arguments = case.arguments(70, batch=3)
    resets = random_resets(70, batch=3)
    y, state = case(arguments, resets=resets)
    for row in range(3):
        alone = case.along_time(arguments, lambda t, r=row: t[r : r + 1])
        y_alone, state_alone = case(alone, resets=resets[row : row + 1])
        assert_close(y[row : row + 1], y_alone)
        assert_close(state[row : row + 1], state_alone)


@CASES
def test_later_tokens_change_no_earlier_output(case):
    arguments = case.arguments(70)
    y, _ = case(arguments)
    changed = case.along_time(arguments, lambda t: torch.cat([t[:, :41], t[:, 41:] * 3 + 1], 1))
    y_changed, _ = case(changed)
    assert_close(y_changed[:, :41], y[:, :41])
    assert not torch.allclose(y_changed[:, 41:], y[:, 41:])


@CASES
def test_views_of_one_projection_are_as_good_as_copies(case):
    arguments = case.arguments(33)
    expected = case(arguments)
    wide = case.along_time(arguments, lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]])
    swapped = case.along_time(arguments, lambda t: t.transpose(0, 1).contiguous().transpose(0, 1))
    for views in (wide, swapped):
        inputs = [t.requires_grad_() for t in views.values()]
        outputs = case(views)
        for a, e in zip(outputs, expected, strict=True):
            assert_close(a, e)
        assert all(g.isfinite().all() for g in _gradients(outputs, inputs))


@CASES
@pytest.mark.parametrize("resets", [False, True], ids=["whole", "packed"])
def test_compiled_equals_eager(case, resets, no_shape_checks):
    arguments = case.arguments(70)
    extras = _extras(case, 70, True, resets)
    inputs = [t.requires_grad_() for t in arguments.values()]

    def function(arguments, extras):
        return case.run(**arguments, **case.options, **extras)

    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")(arguments, extras)
    eager = function(arguments, extras)
    for a, e in zip(compiled, eager, strict=True):
        assert_close(a, e)
    for a, e in zip(_gradients(compiled, inputs), _gradients(eager, inputs), strict=True):
        assert_close(a, e)


@CASES
def test_no_grad_gives_the_same_values(case):
    arguments = case.arguments(1100, batch=1)
    with torch.no_grad():
        quick = case(arguments, resets=random_resets(1100, batch=1))
    inputs = [t.requires_grad_() for t in arguments.values()]
    recorded = case(dict(zip(arguments, inputs, strict=True)), resets=random_resets(1100, batch=1))
    for a, e in zip(quick, recorded, strict=True):
        assert not a.requires_grad
        assert_close(a, e.detach())


@CASES
def test_meta_tensors_give_shapes(case):
    arguments = {name: t.to("meta") for name, t in case.arguments(7).items()}
    y, state = case(arguments)
    y_real, state_real = case(case.arguments(7))
    assert (y.shape, state.shape) == (y_real.shape, state_real.shape)
