"""Choosing rows of a decoding state, and making room in it: it is then as if it had been so from the start."""

import copy

import pytest
import torch

import hybridgen as hg
from tests.helpers.mixer_cases import CASES, make
from tests.model.test_contract import TIGHT, tokens
from tests.model.test_memory_tokens import MEMORY, build, ids
from tests.model.test_rollback import CASE, ROLLBACK, read

ANY_CASE = pytest.mark.parametrize("case", CASES)
ROWS = torch.tensor([1, 1, 0])
# Below, at and beyond the windows (1, 5, 6, 7, 9) and the budgets (2, 6, 7, 8, 9) of the cases.
PIECES = (3, 1, 1, 1, 2, 1, 1, 4, 1, 10, 1)
LENGTH = sum(PIECES)


def padded(batch: int = 2, length: int = 14) -> torch.Tensor:
    mask = torch.ones(batch, length, dtype=torch.bool)
    mask[0, :4] = False
    return mask


def buffers_of(state):
    return {name: value for name, value in state.state_dict().items() if ".history." not in name}


def assert_same(ours, theirs):
    """What two states have read is the same, and where it stands. What was remembered may be of other tokens."""
    assert (ours.length, ours.max_seqlen, ours.batch_size) == (theirs.length, theirs.max_seqlen, theirs.batch_size)
    assert ours.capacities() == theirs.capacities()
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }
    for name, value in buffers_of(theirs).items():
        torch.testing.assert_close(buffers_of(ours)[name], value, **TIGHT, msg=lambda text, at=name: f"{at}: {text}")


@ANY_CASE
@torch.no_grad()
def test_rows_go_on_as_they_would_have_from_the_start(case):
    model = make(case, "float64")
    x, more, mask = tokens(14), tokens(6, batch=3, seed=8), padded()
    state, fresh = model.init_state(2, 30), model.init_state(3, 30)
    read(model, state, x, (11, 1), mask)
    state.select_rows(ROWS)
    read(model, fresh, x[ROWS], (11, 1), mask[ROWS])
    assert_same(state, fresh)
    torch.testing.assert_close(read(model, state, more, (1, 4, 1)), read(model, fresh, more, (1, 4, 1)), **TIGHT)


@CASE
@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_tokens_of_chosen_rows_are_taken_back(case, dtype):
    """Row 0 waits for its first token then: it has had nothing but padding."""
    model = make(case, "float64")
    x, other, mask = tokens(14), tokens(5, batch=3, seed=8), padded()
    mask[0, :12] = False
    state, fresh = model.init_state(2, 30, rollback=ROLLBACK), model.init_state(3, 30, rollback=ROLLBACK)
    read(model, state, x, (14,), mask)
    state.select_rows(ROWS.to(dtype))
    state.truncate(10)
    assert state.has_waiting_rows
    read(model, fresh, x[ROWS][:, :10], (10,), mask[ROWS][:, :10])
    torch.testing.assert_close(read(model, state, other, (1, 3)), read(model, fresh, other, (1, 3)), **TIGHT)
    for each in (state, fresh):
        each.truncate(12)
    torch.testing.assert_close(read(model, state, other, (2,)), read(model, fresh, other, (2,)), **TIGHT)


@CASE
@torch.no_grad()
def test_packed_rows(case):
    model = make(case, "float64")
    x, more = tokens(12), tokens(4, batch=3, seed=8)
    seq_idx = torch.stack([torch.repeat_interleave(torch.arange(2), torch.tensor(row)) for row in ((9, 3), (2, 10))])
    later = torch.tensor([[1, 1, 2, 2], [1, 2, 2, 2], [1, 1, 1, 1]])
    state, fresh = model.init_state(2, 30), model.init_state(3, 30)
    read(model, state, x, (12,), seq_idx=seq_idx)
    state.select_rows(ROWS)
    read(model, fresh, x[ROWS], (12,), seq_idx=seq_idx[ROWS])
    torch.testing.assert_close(
        read(model, state, more, (1, 3), seq_idx=later), read(model, fresh, more, (1, 3), seq_idx=later), **TIGHT
    )


@CASE
@torch.no_grad()
def test_rows_share_no_memory_with_those_before(case):
    """Also where each row stays where it is: a copy, what was saved, and the state go ways of their own."""
    model = make(case, "float64")
    x, more = tokens(9), tokens(4, seed=8)
    state = model.init_state(2, 30, rollback=3)
    read(model, state, x, (7, 1))
    branch, saved = copy.deepcopy(state), state.state_dict()
    values = {name: value.clone() for name, value in saved.items()}
    state.select_rows(torch.tensor([0, 1]))
    read(model, state, more, (3, 1))
    for name, value in saved.items():
        assert torch.equal(value, values[name]), name
    branch.select_rows(torch.tensor([1]))
    branch.grow(60)
    assert (state.batch_size, state.max_seqlen) == (2, 30)
    expected = model(torch.cat((x, more, more), dim=1))
    torch.testing.assert_close(read(model, state, more, (4,)), expected[:, 13:], **TIGHT)
    torch.testing.assert_close(read(model, branch, more[1:], (4,)), expected[1:, 9:13], **TIGHT)


@torch.no_grad()
@pytest.mark.parametrize("rollback", [0, 2])
def test_no_rows_and_more_rows_than_before(rollback):
    model = make("hybrid-pre-rms", "float64")
    x = tokens(6)
    state = model.init_state(2, 8, rollback=rollback)
    model(x[:, :5], state=state, mask=padded(length=5))
    none = copy.deepcopy(state)
    none.select_rows(torch.tensor([], dtype=torch.long))
    assert (none.batch_size, none.nbytes()) == (0, 0)
    state.select_rows(torch.arange(2).repeat_interleave(4))
    expected = model(x, mask=padded(length=6))[:, 5:].repeat_interleave(4, dim=0)
    torch.testing.assert_close(model(x[:, 5:].repeat_interleave(4, dim=0), state=state), expected, **TIGHT)


@torch.no_grad()
def test_whether_a_row_waits_is_asked_of_those_that_stay():
    model = make("mamba1")
    state = model.init_state(2, 8)
    model(tokens(3).float(), state=state, mask=torch.tensor([[False] * 3, [True] * 3]))
    assert state.has_waiting_rows
    state.select_rows(ROWS)
    assert state.has_waiting_rows
    state.select_rows(torch.tensor([0, 1]))
    assert not state.has_waiting_rows


@ANY_CASE
@torch.no_grad()
def test_room_made_as_tokens_come_is_room_from_the_start(case):
    model, x, mask = make(case, "float64"), tokens(LENGTH), torch.ones(2, LENGTH, dtype=torch.bool)
    mask[0, :2] = False
    state, large = model.init_state(2, 0), model.init_state(2, LENGTH)
    begin = 0
    for size in PIECES:
        piece = slice(begin, begin + size)
        state.grow(begin + size)
        got = model(x[:, piece], state=state, mask=mask[:, piece])
        torch.testing.assert_close(got, model(x[:, piece], state=large, mask=mask[:, piece]), **TIGHT)
        begin += size
    assert_same(state, large)


@CASE
@torch.no_grad()
def test_drafts_in_a_state_that_grows(case):
    """Tokens read before room was made are taken back after it."""
    model, x, other = make(case, "float64"), tokens(30), tokens(2, seed=8)
    state, large = model.init_state(2, 3, rollback=3), model.init_state(2, 30, rollback=3)
    whole, length = model(x), 0
    while length < 24:
        state.grow(length + 3)
        for each in (state, large):
            model(torch.cat((x[:, length : length + 1], other), dim=1), state=each)
        state.grow(length + 5)
        for each in (state, large):
            each.truncate(length + 1)
            got = model(x[:, length + 1 : length + 3], state=each)
            torch.testing.assert_close(got, whole[:, length + 1 : length + 3], **TIGHT)
        length += 3
    state.grow(30)
    assert_same(state, large)
    state.select_rows(ROWS)
    state.truncate(length - 2)
    got = read(model, state, x[ROWS][:, length - 2 :], (1, 3))
    torch.testing.assert_close(got, whole[ROWS][:, length - 2 :], **TIGHT)


@CASE
def test_with_gradients(case):
    model, x = make(case, "float64"), tokens(16)
    parameters = list(model.parameters())
    state, large = model.init_state(2, 4), model.init_state(3, 16)
    with torch.no_grad():
        model(x[:, :4], state=state)
        model(x[ROWS][:, :4], state=large)
    state.grow(16)
    state.select_rows(ROWS)
    losses = []
    for each in (state, large):
        first, last = model(x[ROWS][:, 4:13], state=each), model(x[ROWS][:, 13:], state=each)
        losses.append(torch.cat((first, last), dim=1).square().sum())
    got, expected = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in losses)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("case", "bound"), [("attention-window", 5), ("attention-selective-everything", 7)])
@pytest.mark.parametrize("rollback", [0, 2])
def test_a_window_bounds_what_a_cache_grows_to(case, bound, rollback):
    state = make(case).init_state(1, 3, rollback=rollback)
    (layer,) = state.layers
    state.grow(4)
    assert (layer.k.shape[2], state.capacities()) == (4, [4])
    state.grow(100)
    assert (layer.k.shape[2], state.capacities()) == (bound + rollback, [None])
    assert state.nbytes() == make(case).init_state(1, 100, rollback=rollback).nbytes()
    state.grow(200)
    assert layer.k.shape[2] == bound + rollback


def test_a_budget_bounds_what_a_cache_grows_to():
    state = make("attention-pruned").init_state(1, 3, rollback=2)
    (layer,) = state.layers
    for room, width, capacity in ((5, 5, 5), (6, 6, None), (100, 6, None)):
        state.grow(room)
        assert (layer.width, state.capacities(), state.max_seqlen) == (width, [capacity], room)
        assert layer.places.tolist() == [[-1] * (width + 1)]
        assert layer.history["places"].shape == (2, 1, width + 1)


@torch.no_grad()
def test_room_that_is_there_is_not_made():
    model = make("hybrid-pre-rms")
    state = model.init_state(2, 9)
    before = state.state_dict()
    for number in (0, 4, 9):
        state.grow(number)
    after = state.state_dict()
    assert all(after[name] is before[name] for name in before if name != "length")
    assert state.max_seqlen == 9


@torch.no_grad()
def test_memory_tokens_are_counted_beside():
    model, x, mask = build(), ids(10), padded(length=10)
    state = model.init_state(2, 5)
    got = [model(x[:, :5], state=state, mask=mask[:, :5])]
    state.grow(5)
    with pytest.raises(hg.ShapeError, match=f"holds max_seqlen = {5 + MEMORY} tokens"):
        model(x[:, 5:6], state=state)
    state.grow(10)
    assert state.max_seqlen == 10 + MEMORY
    got += [model(part, state=state) for part in x[:, 5:9].split((3, 1), dim=1)]
    state.select_rows(ROWS)
    got = torch.cat((torch.cat(got, dim=1)[ROWS], model(x[ROWS][:, 9:], state=state)), dim=1)
    expected, seen = model(x, mask=mask)[ROWS], mask[ROWS]
    torch.testing.assert_close(got[seen], expected[seen], **TIGHT)
    with pytest.raises(hg.ShapeError, match="do not fit"):
        model(x[ROWS][:, :1], state=state)


@torch.no_grad()
def test_saved_after_both():
    model, x = make("hybrid-pruned", "float64"), tokens(16)
    state, restored = model.init_state(2, 4, rollback=2), model.init_state(3, 16, rollback=2)
    model(x[:, :4], state=state)
    state.grow(16)
    state.select_rows(ROWS)
    restored.load_state_dict({name: value.clone() for name, value in state.state_dict().items()})
    for each in (state, restored):
        each.truncate(3)
    assert torch.equal(model(x[ROWS][:, 3:], state=restored), model(x[ROWS][:, 3:], state=state))


@pytest.mark.parametrize(
    ("index", "given"),
    [
        (torch.tensor([0, 2]), "batch size, 2, and none below 0; given 2"),
        (torch.tensor([-1], dtype=torch.int32), "given -1"),
        (torch.tensor([[0, 1]]), r"given torch\.int64 \(1, 2\)"),
        (torch.tensor(0), r"given torch\.int64 \(\)"),
        (torch.tensor([0.0, 1.0]), r"\(R,\) int64 or int32; given torch\.float32 \(2,\)"),
        (torch.tensor([True, False]), r"given torch\.bool"),
        ([0, 1], "given list"),
    ],
)
@pytest.mark.usefixtures("no_shape_checks")
def test_what_is_no_index_is_said(index, given):
    state = make("mamba1").init_state(2, 8)
    with pytest.raises(hg.ShapeError, match=given):
        state.select_rows(index)
    assert state.batch_size == 2


@pytest.mark.parametrize("wrong", [True, -1])
def test_what_is_no_number_of_tokens_is_said(wrong):
    with pytest.raises(hg.ShapeError, match=f"max_seqlen must be a whole number, 0 or more; given {wrong}"):
        make("mamba1").init_state(2, 8).grow(wrong)


def test_a_state_left_halfway_is_refused():
    state = make("mamba1").init_state(2, 8)
    state.is_busy = True
    with pytest.raises(hg.ShapeError, match="failed halfway"):
        state.select_rows(ROWS)
    with pytest.raises(hg.ShapeError, match="failed halfway"):
        state.grow(20)
