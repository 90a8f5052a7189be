"""What every mixer, and every stack of them, must obey: one call equals any split of it, and nothing leaks."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.mixer_cases import CASES, D_MODEL, EVERY_CASE, MIXER_CASES, make
from tests.helpers.naive import NAIVE

pytestmark = pytest.mark.usefixtures("each_backend")
CASE = pytest.mark.parametrize("case", CASES)
ANY_CASE = pytest.mark.parametrize("case", EVERY_CASE)
# Lengths around the chunk (64), one far beyond it, and the smallest.
LENGTHS = (1, 63, 64, 65, 257)
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def tokens(length: int, batch: int = 2, dtype: torch.dtype = torch.float64, seed: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, D_MODEL, generator=generator, dtype=torch.float64).to(dtype)


def in_pieces(model, x, sizes, mask=None):
    """Runs x through a fresh state in pieces of the given sizes, the last one repeated."""
    state = model.init_state(x.shape[0], x.shape[1])
    out, begin, index = [], 0, 0
    while begin < x.shape[1]:
        end = min(begin + sizes[min(index, len(sizes) - 1)], x.shape[1])
        piece = None if mask is None else mask[:, begin:end]
        out.append(model(x[:, begin:end], state=state, mask=piece))
        begin, index = end, index + 1
    assert state.length == x.shape[1]
    return torch.cat(out, dim=1)


@CASE
@torch.no_grad()
def test_pieces_equal_the_whole(case):
    model = make(case, "float64")
    x = tokens(70)
    whole = model(x)
    for sizes in ((1,), (3,), (17,), (70,), (64, 1), (7, 1, 30, 2, 1)):
        torch.testing.assert_close(in_pieces(model, x, sizes), whole, **TIGHT)


@CASE
@torch.no_grad()
@pytest.mark.parametrize("length", LENGTHS)
def test_prefill_then_step_equals_the_whole_at_any_length(case, length):
    model = make(case, "float64")
    x = tokens(length + 1)
    torch.testing.assert_close(in_pieces(model, x, (length, 1)), model(x), **TIGHT)


@CASE
@torch.no_grad()
def test_left_padding_changes_nothing(case):
    model = make(case, "float64")
    lengths = (5, 23, 1, 30)
    rows = [tokens(length, batch=1, seed=length) for length in lengths]
    alone = [model(row) for row in rows]
    width = 30
    x = torch.full((4, width, D_MODEL), 1e3, dtype=torch.float64)
    mask = torch.zeros(4, width, dtype=torch.bool)
    for i, row in enumerate(rows):
        x[i, width - lengths[i] :] = row[0]
        mask[i, width - lengths[i] :] = True
    for together in (model(x, mask=mask), in_pieces(model, x, (30,), mask), in_pieces(model, x, (8, 4), mask)):
        for i, length in enumerate(lengths):
            torch.testing.assert_close(together[i, width - length :], alone[i][0], **TIGHT)


@CASE
@torch.no_grad()
def test_padded_prefill_then_steps_without_a_mask(case):
    model = make(case, "float64")
    rows = [tokens(4 + 6, batch=1, seed=1), tokens(9 + 6, batch=1, seed=2)]
    x, mask = torch.zeros(2, 9, D_MODEL, dtype=torch.float64), torch.ones(2, 9, dtype=torch.bool)
    x[0, 5:], x[1], mask[0, :5] = rows[0][0, :4], rows[1][0, :9], False
    state = model.init_state(2, 20)
    model(x, state=state, mask=mask)
    ahead = torch.stack((rows[0][0, 4:], rows[1][0, 9:]))
    stepped = torch.cat([model(ahead[:, t : t + 1], state=state) for t in range(3)], dim=1)
    rest = model(ahead[:, 3:], state=state)
    got = torch.cat((stepped, rest), dim=1)
    for i, prompt in enumerate((4, 9)):
        torch.testing.assert_close(got[i], model(rows[i])[0, prompt:], **TIGHT)


@CASE
@torch.no_grad()
def test_packed_rows_equal_their_sequences_apart(case):
    model = make(case, "float64")
    layout = ((5, 1, 40, 4), (30, 2, 2, 16))
    x = tokens(50)
    seq_idx = torch.stack([torch.repeat_interleave(torch.arange(4), torch.tensor(row)) for row in layout])
    apart = torch.cat(
        [torch.cat([model(part) for part in x[i : i + 1].split(row, dim=1)], dim=1) for i, row in enumerate(layout)]
    )
    torch.testing.assert_close(model(x, seq_idx=seq_idx), apart, **TIGHT)
    state = model.init_state(2, 60)
    pieces = [model(x[:, a:b], state=state, seq_idx=seq_idx[:, a:b]) for a, b in ((0, 33), (33, 34), (34, 50))]
    torch.testing.assert_close(torch.cat(pieces, dim=1), apart, **TIGHT)
    more = tokens(3, seed=3)
    last = torch.stack([torch.cat((x[i, 50 - layout[i][3] :], more[i])) for i in range(2) if layout[i][3] == 4])
    continued = model(more, state=state)
    torch.testing.assert_close(continued[:1], model(last[:1])[:, 4:], **TIGHT)


@CASE
@torch.no_grad()
def test_later_tokens_change_no_earlier_output(case):
    model = make(case, "float64")
    x = tokens(40)
    changed = x.clone()
    changed[:, 25:] += 10
    torch.testing.assert_close(model(changed)[:, :25], model(x)[:, :25], **TIGHT)
    assert not torch.allclose(model(changed)[:, 25:], model(x)[:, 25:])


@ANY_CASE
@torch.no_grad()
def test_batch_rows_are_independent(case):
    model = make(case, "float64")
    x = tokens(20, batch=3)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), **TIGHT)
    changed = x.clone()
    changed[0] = float("nan")
    torch.testing.assert_close(model(changed)[1:], model(x)[1:], **TIGHT)


@CASE
@torch.no_grad()
def test_no_tokens(case):
    model = make(case, "float64")
    assert model(tokens(0)).shape == (2, 0, D_MODEL)
    state = model.init_state(2, 10)
    x = tokens(4)
    first = model(x[:, :2], state=state)
    assert model(x[:, 2:2], state=state).shape == (2, 0, D_MODEL)
    second = model(x[:, 2:], state=state)
    torch.testing.assert_close(torch.cat((first, second), dim=1), model(x), **TIGHT)


@CASE
@torch.no_grad()
def test_state_survives_copying_and_saving(case, tmp_path):
    model = make(case, "float32")
    x = tokens(12, dtype=torch.float32)
    state = model.init_state(2, 20)
    model(x[:, :8], state=state)
    branch = copy.deepcopy(state)
    save_file({name: value.clone() for name, value in state.state_dict().items()}, tmp_path / "state.safetensors")
    expected = model(x[:, 8:], state=state)
    assert torch.equal(model(x[:, 8:], state=branch), expected)
    restored = model.init_state(2, 20)
    restored.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert torch.equal(model(x[:, 8:], state=restored), expected)
    restored.reset()
    assert torch.equal(model(x[:, :8], state=restored), model(x[:, :8], state=model.init_state(2, 20)))


@pytest.mark.parametrize("case", MIXER_CASES)
def test_mixer_matches_the_equations(case):
    mixer = make(case, "float64").backbone.layers[0].mixer
    x = tokens(11, batch=1).requires_grad_()
    naive = NAIVE[mixer.spec.type](mixer, x[0])
    torch.testing.assert_close(mixer(x)[0], naive, **TIGHT)
    weights = [x, *mixer.parameters()]
    cotangent = tokens(11, batch=1, seed=8)
    expected = torch.autograd.grad(naive, weights, cotangent[0])
    got = torch.autograd.grad(mixer(x), weights, cotangent)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


@ANY_CASE
def test_gradients_match_float64(case):
    wide, narrow = make(case, "float64"), make(case, "float32")
    narrow.load_state_dict({name: value.float() for name, value in wide.state_dict().items()})
    x, cotangent = tokens(66), tokens(66, seed=9)
    wide(x).backward(cotangent)
    narrow(x.float()).backward(cotangent.float())
    for (name, ours), theirs in zip(narrow.named_parameters(), wide.parameters(), strict=True):
        scale = theirs.grad.abs().max().clamp(min=1e-6)
        assert (ours.grad - theirs.grad).abs().max() / scale < 1e-3, name


@CASE
@torch.no_grad()
def test_bfloat16_stays_near_float32(case):
    """Tolerance: rounding of weights and activations to 8 bits, 3 % of the output's spread on average."""
    model, small = make(case, "float32"), make(case, "bfloat16")
    small.load_state_dict({n: v.to(small.get_parameter(n).dtype) for n, v in model.state_dict().items()})
    model.load_state_dict({name: value.float() for name, value in small.state_dict().items()})
    x = tokens(40, dtype=torch.bfloat16)
    expected, got = model(x.float()), small(x)
    assert got.dtype == torch.bfloat16
    assert (got.float() - expected).abs().mean() < 0.03 * expected.std()
    stepped = in_pieces(small, x, (20, 1))
    assert (stepped.float() - expected).abs().mean() < 0.03 * expected.std()
