"""Taking tokens back: a state is then as if it had never seen them."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

import hybridgen as hg
from tests.helpers.mixer_cases import D_MODEL, MIXER_CASES, make
from tests.model.test_contract import tokens

# Of each kind of state one or two: what follows from the token alone differs from case to case elsewhere.
CASE = pytest.mark.parametrize(
    "case",
    [
        "attention-grouped", "attention-window", "attention-selective-head", "attention-selective-everything",
        "attention-everything", "attention-pruned", "attention-pruned-everything", "mamba1", "mamba2-groups",
        "hybrid-pre-rms", "hybrid-pruned", "residual-raw", "residual-upstream", "selection-over-depth",
    ],
)  # fmt: skip
ROLLBACK = 5


def read(model, state, x, sizes=(1,), mask=None, seq_idx=None):
    """Reads x in pieces of the given sizes, the last one repeated."""
    out, begin, index = [], 0, 0
    while begin < x.shape[1]:
        end = min(begin + sizes[min(index, len(sizes) - 1)], x.shape[1])
        beside = {
            name: value[:, begin:end] for name, value in (("mask", mask), ("seq_idx", seq_idx)) if value is not None
        }
        out.append(model(x[:, begin:end], state=state, **beside))
        begin, index = end, index + 1
    return torch.cat(out, dim=1)


@CASE
@torch.no_grad()
@pytest.mark.parametrize("kept", [1, 12])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_single_steps_taken_back_leave_no_trace(case, kept, dtype):
    """Bit for bit, since the tokens kept were read in the same pieces."""
    model = make(case, dtype)
    x, other = tokens(12 + ROLLBACK, dtype=model.dtype), tokens(9, seed=8, dtype=model.dtype)
    state, fresh = model.init_state(2, 40, rollback=ROLLBACK), model.init_state(2, 40, rollback=ROLLBACK)
    read(model, state, x[:, : kept + ROLLBACK], (kept, 1))
    state.truncate(kept)
    assert state.length == kept
    read(model, fresh, x[:, :kept], (kept,))
    assert torch.equal(read(model, state, other, (4, 1)), read(model, fresh, other, (4, 1)))
    for layer, wanted in zip(state.layers, fresh.layers, strict=True):
        if layer is not None and wanted is not None:
            for name, value in layer.running().items():
                assert torch.equal(value, wanted.running()[name]), name


@CASE
@torch.no_grad()
def test_part_of_a_call_taken_back_leaves_no_trace(case):
    model = make(case, "float64")
    x, other = tokens(31), tokens(6, seed=8)
    expected = model(torch.cat((x[:, :28], other), dim=1))[:, 28:]
    for sizes in ((31,), (27, 4)):
        state = model.init_state(2, 50, rollback=ROLLBACK)
        whole = read(model, state, x, sizes)
        torch.testing.assert_close(whole, model(x), rtol=1e-9, atol=1e-9)
        state.truncate(28)
        torch.testing.assert_close(read(model, state, other, (2, 4)), expected, rtol=1e-9, atol=1e-9)


@CASE
@torch.no_grad()
def test_again_and_again(case):
    """As in speculative decoding: drafts of several tokens, of which some stay."""
    model = make(case, "float64")
    x = tokens(40)
    wanted, state = model(x), model.init_state(2, 50, rollback=4)
    read(model, state, x[:, :6], (6,))
    generator, length = torch.Generator().manual_seed(3), 6
    while length < 36:
        right = int(torch.randint(0, 4, (), generator=generator))
        draft = torch.cat((x[:, length : length + 1 + right], tokens(3 - right, seed=length)), dim=1)
        got = model(draft, state=state)
        torch.testing.assert_close(got[:, : right + 1], wanted[:, length : length + right + 1], rtol=1e-9, atol=1e-9)
        length += right + 1
        state.truncate(length)
    torch.testing.assert_close(model(x[:, length:], state=state), wanted[:, length:], rtol=1e-9, atol=1e-9)


@CASE
def test_with_gradients(case):
    model = make(case, "float64")
    x, other = tokens(12), tokens(3, seed=8)
    plain, state = model.init_state(2, 30), model.init_state(2, 30, rollback=ROLLBACK)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(model(x, state=plain).square().sum(), parameters, allow_unused=True)
    got = torch.autograd.grad(model(x, state=state).square().sum(), parameters, allow_unused=True)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)
    state.truncate(9)
    with torch.no_grad():
        wanted = model(torch.cat((x[:, :9], other), dim=1))[:, 9:]
        torch.testing.assert_close(model(other, state=state), wanted, rtol=1e-9, atol=1e-9)


@CASE
@torch.no_grad()
def test_padded_rows(case):
    model = make(case, "float64")
    x, other = tokens(14, batch=3), tokens(4, batch=3, seed=8)
    mask = torch.ones(3, 14, dtype=torch.bool)
    mask[0, :12], mask[1, :3] = False, False
    state, fresh = model.init_state(3, 30, rollback=ROLLBACK), model.init_state(3, 30)
    read(model, state, x, (14,), mask)
    state.truncate(10)
    read(model, fresh, x[:, :10], (10,), mask[:, :10])
    expected, got = read(model, fresh, other, (1, 3)), read(model, state, other, (1, 3))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@CASE
@torch.no_grad()
def test_packed_rows(case):
    model = make(case, "float64")
    x, other = tokens(20), tokens(4, seed=8)
    seq_idx = torch.stack(
        [torch.repeat_interleave(torch.arange(3), torch.tensor(row)) for row in ((9, 6, 5), (2, 8, 10))]
    )
    state, fresh = model.init_state(2, 30, rollback=ROLLBACK), model.init_state(2, 30)
    read(model, state, x, (20,), seq_idx=seq_idx)
    with pytest.raises(hg.ShapeError, match=r"that of row 0 began at token 15, and where the one before"):
        state.truncate(15)
    state.truncate(16)
    read(model, fresh, x[:, :16], (16,), seq_idx=seq_idx[:, :16])
    later = torch.tensor([[2, 2, 3, 3], [2, 3, 3, 3]])
    expected = read(model, fresh, other, (1, 3), seq_idx=later)
    torch.testing.assert_close(read(model, state, other, (1, 3), seq_idx=later), expected, rtol=1e-9, atol=1e-9)


@CASE
@torch.no_grad()
def test_saved_and_copied(case, tmp_path):
    model = make(case)
    x = tokens(12, dtype=torch.float32)
    state = model.init_state(2, 30, rollback=ROLLBACK)
    read(model, state, x, (7, 1))
    state.truncate(11)
    save_file({name: value.clone() for name, value in state.state_dict().items()}, tmp_path / "state.safetensors")
    restored, branch = model.init_state(2, 30, rollback=ROLLBACK), copy.deepcopy(state)
    restored.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert (restored.length, restored.peak) == (11, 12)
    for each in (state, restored, branch):
        each.truncate(8)
    expected = model(x[:, 8:], state=state)
    assert torch.equal(model(x[:, 8:], state=restored), expected)
    assert torch.equal(model(x[:, 8:], state=branch), expected)


@CASE
@torch.no_grad()
def test_to_nothing_is_reset(case):
    model = make(case)
    x = tokens(9, dtype=torch.float32)
    state, fresh = model.init_state(2, 30), model.init_state(2, 30)
    read(model, state, x)
    state.truncate(0)
    assert (state.length, state.peak, state.starts) == (0, 0, None)
    for name, value in state.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name]), name


def test_full_caches_go_back_to_any_length():
    model = make("attention-sink")
    x = tokens(30, dtype=model.dtype)
    with torch.no_grad():
        state = model.init_state(2, 30)
        model(x, state=state)
        state.truncate(4)
        torch.testing.assert_close(model(x[:, 4:], state=state), model(x)[:, 4:])


def test_a_ring_that_nothing_was_overwritten_in_goes_back():
    model = make("attention-window")
    x = tokens(9, dtype=torch.float32)
    with torch.no_grad():
        state = model.init_state(2, 30)
        model(x[:, :5], state=state)
        state.truncate(2)
        torch.testing.assert_close(model(x[:, 2:], state=state), model(x)[:, 2:])
    with pytest.raises(hg.UnsupportedError, match=r"layer 0 cannot be rolled back.*rollback=1\)"):
        state.truncate(8)


def test_words():
    model = make("hybrid-pre-rms")
    state = model.init_state(2, 40)
    x = tokens(20, dtype=torch.float32)
    with torch.no_grad():
        model(x, state=state)
    with pytest.raises(hg.UnsupportedError, match=r"layer 0 cannot be rolled back.*init_state\(..., rollback=3\)"):
        state.truncate(17)
    state.truncate(20)
    for wrong in (-1, 21):
        with pytest.raises(hg.ShapeError, match=rf"a length of 0 ... 20, the tokens read; given {wrong}"):
            state.truncate(wrong)
    state = model.init_state(2, 40, rollback=4)
    with torch.no_grad():
        model(x, state=state)
        state.truncate(17)
        model(x[:, :1], state=state)
    with pytest.raises(
        hg.ShapeError, match=r"take back 5 of the 20 tokens that were read; layer 0 remembers rollback = 4"
    ):
        state.truncate(15)
    with pytest.raises(hg.ShapeError, match="rollback must be a whole number"):
        model.init_state(1, 4, rollback=-1)
    state.is_busy = True
    with pytest.raises(hg.ShapeError, match="failed halfway"):
        state.truncate(17)


@pytest.mark.parametrize("fields", [{"sink": True}, {"logit_softcap": 3.0}])
def test_a_window_stays_as_wide_as_it_is(fields):
    """The ring of a state with rollback holds more than the window."""
    mixer = {"type": "attention", "num_heads": 4, "window": 6, **fields}
    backbone = {"d_model": D_MODEL, "blocks": {"a": {"mixer": mixer}}, "pattern": "a*2"}
    model = hg.build(hg.ModelSpec.model_validate({"backbone": backbone}), dtype="float64").eval()
    x = tokens(40)
    with torch.no_grad():
        state = model.init_state(2, 40, rollback=4)
        steps = torch.cat([model(x[:, t : t + 1], state=state) for t in range(40)], dim=1)
        torch.testing.assert_close(steps, model(x))


def test_memory_tokens_stay_or_go_together():
    spec = {"input": {"type": "tokens", "vocab_size": 16, "memory_tokens": 4}, "head": {"type": "lm"}}
    backbone = {"d_model": 16, "n_layer": 1, "attn_layer_idx": "all", "attn": {"num_heads": 2}}
    model = hg.build(hg.ModelSpec.model_validate({**spec, "backbone": backbone}), dtype="float64").eval()
    ids = torch.randint(16, (2, 10))
    with torch.no_grad():
        state = model.init_state(2, 10)
        whole = model(ids, state=state)
        with pytest.raises(hg.ShapeError, match="some of the 4 memory tokens"):
            state.truncate(2)
        state.truncate(state.length - 3)
        torch.testing.assert_close(model(ids[:, 7:], state=state), whole[:, 7:])


@pytest.mark.parametrize("wrong", [True, -1])
def test_what_is_no_number_of_tokens_is_said(wrong):
    model = make(next(iter(MIXER_CASES)))
    with pytest.raises(hg.ShapeError, match="rollback must be a whole number"):
        model.init_state(1, 8, rollback=wrong)
    with pytest.raises(hg.ShapeError, match="truncate takes a length"):
        model.init_state(1, 8).truncate(wrong)


def test_what_needs_other_layers_cannot_be_read_one_by_one():
    with pytest.raises(hg.UnsupportedError, match="selection_from: guide needs what other layers hand on"):
        make("pruned-guided").init_state(1, 8, rollback=2)
    mixer = {"type": "attention", "num_heads": 4, "selective": True, "dropout": 0.5}
    backbone = {"d_model": D_MODEL, "blocks": {"a": {"mixer": mixer}}, "pattern": "a"}
    model = hg.build(hg.ModelSpec.model_validate({"backbone": backbone})).train()
    with pytest.raises(hg.UnsupportedError, match=r"model\.eval"):
        model(tokens(4).float(), state=model.init_state(2, 8, rollback=2))
